"""What a layer's numbers become: bits, granularity and how ranges are chosen, as one frozen value with a name."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InputError, UnsupportedError

RANGES = ("minmax", "percentile", "mse")


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How to quantize. Raises InputError or UnsupportedError for values outside their ranges.

    weight_bits, activation_bits: 8, or 32 for float32. granularity: of weight scales, "channel" (one per output
    channel). group_size: weights that share a scale (0: all). range_method: of static activations, "minmax",
    "percentile" (`percentile` % of the values on each side) or "mse" (least squared error). equalize: balance the
    channel ranges of successive layers (Nagel et al. 2019, section 4.1). correct_bias: take the mean error of a layer's
    output out of its bias (ibid., section 4.2). compensate: round weights so that their errors cancel on calibration
    data (Frantar et al. 2022).
    """

    name: str
    weight_bits: int = 8
    activation_bits: int = 8
    granularity: str = "channel"
    group_size: int = 0
    range_method: str = "mse"
    percentile: float = 99.99
    equalize: bool = True
    correct_bias: bool = True
    compensate: bool = True

    def __post_init__(self) -> None:
        if self.range_method not in RANGES:
            raise InputError(f"range_method must be one of {', '.join(RANGES)}, not {self.range_method!r}")
        if not 50 < self.percentile <= 100:
            raise InputError(f"percentile must be in (50, 100], not {self.percentile}")
        bits = (self.weight_bits, self.activation_bits)
        if bits not in ((8, 8), (32, 32)) or self.granularity != "channel" or self.group_size != 0:
            raise UnsupportedError(
                f"scheme {self.name!r} asks for {self.weight_bits}-bit weights, {self.activation_bits}-bit "
                f"activations, granularity {self.granularity!r}, group_size {self.group_size}; available are 8 and 8 "
                "bits, or 32 and 32 (float32), with a scale per channel"
            )

    @property
    def is_float(self) -> bool:
        """Whether layers stay in float32."""
        return self.weight_bits == 32


SCHEMES = {
    "int8": Scheme(name="int8"),
    "float32": Scheme(name="float32", weight_bits=32, activation_bits=32),
}
PLANNED = ("int4", "int4-g32", "ternary", "binary")


def resolve(scheme: str | Scheme) -> Scheme:
    """The scheme of that name, or the scheme itself. Raises InputError, or UnsupportedError for one that is to come."""
    if isinstance(scheme, Scheme):
        return scheme
    if scheme in PLANNED:
        raise UnsupportedError(f"the scheme {scheme!r} is not available yet; use one of {', '.join(SCHEMES)}")
    if scheme not in SCHEMES:
        raise InputError(f"there is no scheme {scheme!r}; use one of {', '.join(SCHEMES)}")
    return SCHEMES[scheme]
