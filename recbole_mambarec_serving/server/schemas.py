"""What requests and answers look like; the OpenAPI description is made from these classes."""

# no postponed annotations: pydantic could not see those of the classes that are made within a function

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from recbole_mambarec_serving.server.options import LONGEST_ID, Options


class Recommended(BaseModel):
    """An item of a ranked list."""

    item: str = Field(description="Its id.")
    score: float = Field(description="By which the list is ordered; only the order within a list has a meaning.")
    title: str | None = Field(description="Its title, if the dataset has one.")


class ForUser(BaseModel):
    """What is recommended to a user, the best first."""

    user: str
    recommendations: list[Recommended]


class ForUsers(BaseModel):
    """What is recommended to several users, in the order in which they were named."""

    results: list[ForUser]
    unknown: list[str] = Field(description="Users whom the model does not know, and who have no result therefore.")


class ForItems(BaseModel):
    """What is recommended to somebody who has these items, the best first."""

    items: list[str]
    recommendations: list[Recommended]


class SimilarItems(BaseModel):
    """The items that are most similar to an item, the most similar first."""

    item: str
    by: str
    similar: list[Recommended]


class Item(BaseModel):
    """What the bundle says of an item."""

    id: str
    title: str | None
    image: str | None = Field(description="The address of a picture.")
    popularity: int = Field(description="Users who have it in training.")
    modalities: list[str] = Field(description="Modalities of which it has features.")


class Items(BaseModel):
    """Items, those that match best first."""

    items: list[Item]


class Users(BaseModel):
    """Ids of users."""

    users: list[str]


class Bundle(BaseModel):
    """The bundle that is served."""

    name: str
    users: int
    items: int
    modalities: list[str] = Field(description="In which items can be compared.")
    loaded: str = Field(description="When it was loaded (UTC, ISO 8601).")


class Health(BaseModel):
    """Whether the server answers, and with what. Without the server's token, only the status is told."""

    status: str = Field(description="ok, or stale: a newer bundle lies at the path, but is broken.")
    bundle: Bundle | None = None
    fault: str | None = Field(default=None, description="Why the newer bundle is not served.")


class Fault(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="One sentence.")
    id: str | None = Field(default=None, description="Of an error of the server: the id under which its log has it.")


Id = Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]


def _whole(value: Any) -> Any:
    # 20.0 is an integer to JSON Schema, and to languages without another kind of number
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Bodies:
    """Bodies of requests within the limits of a server."""

    def __init__(self, options: Options) -> None:
        # the limits first, or the description would not have them
        K = Annotated[int, Field(ge=1, le=options.max_k, description="How many items."), BeforeValidator(_whole)]
        Ids = Annotated[list[Id], Field(min_length=1, max_length=options.max_batch)]
        Seen = Annotated[bool, Field(description="Leave out what the user has already.")]

        class Body(BaseModel):
            model_config = ConfigDict(extra="forbid", strict=True)

        class UsersBody(Body):
            """Whom to recommend what."""

            users: Ids
            k: K = min(20, options.max_k)
            exclude_seen: Seen = True
            among: Annotated[Ids | None, Field(description="Rank these items only.")] = None

        class BasketBody(Body):
            """Items that somebody has."""

            items: Ids
            k: K = min(20, options.max_k)
            exclude_seen: Seen = True

        class ItemsBody(Body):
            """Items to be described."""

            items: Ids

        self.Users, self.Basket, self.Items = UsersBody, BasketBody, ItemsBody
