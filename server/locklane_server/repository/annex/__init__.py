"""``AnnexRepository``: a real git-annex repository, on the same files as git-annex itself.

``repository.py`` is the whole; each other file is one thing that git-annex keeps on disk: where
content lies (``layout``), its permissions (``modes``), its locks (``contentlock``), transfers that
are under way (``transfers``), where content is known to be (``locationlog``, ``branch``,
``committer``), which files of the work tree want it (``keysdb``), what the configuration says
(``config``); and git-annex itself, for what only it can do (``program``).
"""
