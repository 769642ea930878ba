"""Ranking strategies, generators that ask for duels and return an outcome; and fits of duels."""

from prefine.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "prefine.ranking.fitting.bradley_terry": (
            "Fit",
            "bradley_terry",
            "fit_duels",
        ),
        "prefine.ranking.protocol": (
            "Duel",
            "Outcome",
            "Rate",
            "strategy",
        ),
        "prefine.ranking.run": ("drive",),
        "prefine.ranking.strategies.against_baseline": ("against_baseline",),
        "prefine.ranking.strategies.circulant": ("circulant",),
        "prefine.ranking.strategies.eubo": ("eubo",),
        "prefine.ranking.strategies.halving": ("halving",),
        "prefine.ranking.strategies.insertion": ("insertion",),
        "prefine.ranking.strategies.iterative": ("iterative",),
        "prefine.ranking.strategies.knockout": ("knockout",),
        "prefine.ranking.strategies.merge": ("merge",),
        "prefine.ranking.strategies.minmax": ("minmax",),
        "prefine.ranking.strategies.pointwise": ("pointwise",),
        "prefine.ranking.strategies.round_robin": ("round_robin",),
        "prefine.ranking.strategies.score_then_duel": ("score_then_duel",),
        "prefine.ranking.strategies.swiss": ("swiss",),
        "prefine.ranking.strategies.top_two": ("top_two",),
        "prefine.ranking.tournament": (
            "copeland",
            "cyclic_triads",
            "kendall_distance",
        ),
    },
)
