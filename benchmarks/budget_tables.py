"""The tables of the benchmark of the automatic budget, from its finished trials."""


def show(path):
    pass
