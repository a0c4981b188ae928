"""Recommendations from an exported model: neither RecBole nor torch is imported here.

::

    from recbole_mambarec_serving import Recommender
    rec = Recommender.load("bundle")
    rec.recommend("A1B2C3", k=20)
"""

from recbole_mambarec_serving.ids import Ids, UnknownItem, UnknownUser
from recbole_mambarec_serving.recommender import Recommender
from recbole_mambarec_serving.types import Explanation, ItemInfo, Recommendation

__all__ = ["Explanation", "Ids", "ItemInfo", "Recommendation", "Recommender", "UnknownItem", "UnknownUser"]
