// What a byte of a fuzzer's input may name. Append only: inputs in the corpus hold places in these lists. fuzz_seeds.py
// says which words are missing.
#pragma once

#include <array>
#include <string_view>

namespace lowbit::fuzz {

inline constexpr auto kTypes =
    std::to_array<std::string_view>({"f32", "f16", "i64", "i32", "bool", "u8", "s8", "bf16", "f33"});

inline constexpr auto kConditions = std::to_array<std::string_view>({"zero", "nonzero", "natural", "odd"});

inline constexpr auto kPatterns =
    std::to_array<std::string_view>({"", "32x4", "16x4", "8x4", "4x4", "1x4", "unstructured"});

inline constexpr auto kKeys = std::to_array<std::string_view>({"activation_max",
                                                               "activation_min",
                                                               "align_corners",
                                                               "alpha",
                                                               "axes",
                                                               "axis",
                                                               "causal",
                                                               "ceil_mode",
                                                               "correction",
                                                               "count_include_pad",
                                                               "descending",
                                                               "diagonal",
                                                               "dilation",
                                                               "dims",
                                                               "divides_last",
                                                               "dtype",
                                                               "dtypes",
                                                               "eps",
                                                               "granularity",
                                                               "groups",
                                                               "hi",
                                                               "k",
                                                               "keepdim",
                                                               "kernel",
                                                               "kind",
                                                               "largest",
                                                               "last",
                                                               "length",
                                                               "lo",
                                                               "max",
                                                               "min",
                                                               "mode",
                                                               "multiplier",
                                                               "multiplier_a",
                                                               "multiplier_b",
                                                               "nan_if_empty",
                                                               "output",
                                                               "output_padding",
                                                               "output_size",
                                                               "padding",
                                                               "perm",
                                                               "ranks",
                                                               "reduce",
                                                               "residual_multiplier",
                                                               "residual_zero_point",
                                                               "reverse",
                                                               "scale",
                                                               "scales",
                                                               "shape",
                                                               "size",
                                                               "sizes",
                                                               "snap",
                                                               "start",
                                                               "step",
                                                               "stop",
                                                               "stride",
                                                               "transpose_b",
                                                               "upper",
                                                               "value",
                                                               "zero_point",
                                                               "zero_point_a",
                                                               "zero_point_b",
                                                               "zero_point_x",
                                                               "zero_point_y",
                                                               "no_such_key",
                                                               "zero",
                                                               "x_group_size",
                                                               "group_size",
                                                               "softcap",
                                                               "window"});

inline constexpr auto kTexts = std::to_array<std::string_view>(
    {"abs",      "add",       "all",       "and",         "any",           "atan",
     "bool",     "border",    "ceil",      "circular",    "constant",      "cos",
     "cubic",    "elu",       "eq",        "erf",         "erfc",          "exp",
     "exp2",     "expm1",     "f16",       "f32",         "floor",         "ge",
     "gelu",     "gelu_tanh", "gt",        "hardsigmoid", "hardswish",     "hardtanh",
     "i32",      "i64",       "le",        "leaky_relu",  "linear",        "log",
     "log1p",    "log2",      "lt",        "max",         "mean",          "min",
     "mish",     "mul",       "ne",        "nearest",     "nearest_exact", "neg",
     "none",     "or",        "prod",      "reciprocal",  "reflect",       "reflection",
     "relu",     "relu6",     "replicate", "round",       "row",           "rsqrt",
     "s8",       "sample",    "sigmoid",   "sign",        "silu",          "sin",
     "softplus", "sqrt",      "square",    "std",         "sum",           "tanh",
     "trunc",    "u8",        "var",       "xor",         "zeros",         "no_such_text"});

}  // namespace lowbit::fuzz
