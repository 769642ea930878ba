"""Preference losses: pure functions of log-probabilities, one value per pair."""

from prefine.losses.alpha_po import alpha_po
from prefine.losses.aot import aot
from prefine.losses.aot_unpaired import aot_unpaired
from prefine.losses.apo_down import apo_down
from prefine.losses.apo_zero import apo_zero
from prefine.losses.base import PairLogps, TokenLogps
from prefine.losses.bco import bco
from prefine.losses.bdpo import bdpo
from prefine.losses.beta_dpo import beta_dpo
from prefine.losses.bmc import bmc
from prefine.losses.cal_dpo import cal_dpo
from prefine.losses.chi_po import chi_po
from prefine.losses.cpo import cpo
from prefine.losses.discopop import discopop
from prefine.losses.dpo import dpo
from prefine.losses.dpo_gamma import dpo_gamma
from prefine.losses.dpo_shift import dpo_shift
from prefine.losses.dpop import dpop
from prefine.losses.exo import exo
from prefine.losses.f_dpo import f_dpo
from prefine.losses.f_dpo_alpha import f_dpo_alpha
from prefine.losses.hinge import hinge
from prefine.losses.ipo import ipo
from prefine.losses.kto_pair import kto_pair
from prefine.losses.ld_dpo import ld_dpo
from prefine.losses.mixture import mixture
from prefine.losses.nca import nca
from prefine.losses.odpo import odpo
from prefine.losses.orpo import orpo
from prefine.losses.r_dpo import r_dpo
from prefine.losses.robust import robust
from prefine.losses.rpo import rpo
from prefine.losses.sigmoid_norm import sigmoid_norm
from prefine.losses.simpo import simpo
from prefine.losses.slic import slic
from prefine.losses.soft_dpo import soft_dpo
from prefine.losses.sppo import sppo
from prefine.losses.sppo_hard import sppo_hard
from prefine.losses.wpo import wpo

__all__ = [
    "PairLogps",
    "TokenLogps",
    "alpha_po",
    "aot",
    "aot_unpaired",
    "apo_down",
    "apo_zero",
    "bco",
    "bdpo",
    "beta_dpo",
    "bmc",
    "cal_dpo",
    "chi_po",
    "cpo",
    "discopop",
    "dpo",
    "dpo_gamma",
    "dpo_shift",
    "dpop",
    "exo",
    "f_dpo",
    "f_dpo_alpha",
    "hinge",
    "ipo",
    "kto_pair",
    "ld_dpo",
    "mixture",
    "nca",
    "odpo",
    "orpo",
    "r_dpo",
    "robust",
    "rpo",
    "sigmoid_norm",
    "simpo",
    "slic",
    "soft_dpo",
    "sppo",
    "sppo_hard",
    "wpo",
]
