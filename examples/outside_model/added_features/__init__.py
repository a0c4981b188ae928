"""A model from outside recbole_mambarec; importing this package registers it."""

import recbole_mambarec

recbole_mambarec.register(
    "added_features.model:AddedFeatures",
    defaults="AddedFeatures.yaml",
    search_space="AddedFeatures.hyper",
    published="published",
)
