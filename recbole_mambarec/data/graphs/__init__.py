"""Graphs over users and items, built once from arrays and propagated as CSR matrices.

* :mod:`~recbole_mambarec.data.graphs.sparse`: the matrix that models multiply with.
* :mod:`~recbole_mambarec.data.graphs.bipartite`: user-item graphs and the pruning of their edges.
* :mod:`~recbole_mambarec.data.graphs.neighbours`: nearest neighbours by item features, and graphs over them;
  :mod:`~recbole_mambarec.data.graphs.approximate` searches large catalogues.
* :mod:`~recbole_mambarec.data.graphs.co_occurrence`: users who share items.

Nodes are the real users and items, numbered from 0: RecBole's padding row does not exist in a graph. A graph that only
one model uses is built in that model's module.
"""
