"""The bars that benchmarks/speed.py holds its figures against, and the readings that they need."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import speed_cases
from speed_cases import FLAT, REFERENCE

COMPILED = f"{REFERENCE} compiled"
LARGE, DEFAULT_64 = "base 128, 3 layers", "base 96 on 12 x 8 x 8, batch 64"
MISSED, INCONCLUSIVE, REACHED = VERDICTS = ("**missed**", "inconclusive", "reached")  # the worst first
NOT_MEASURED = "not measured"
ENOUGH = 5  # repeats
RULE = f"""
What was measured several times is held against its bar by its median. It is inconclusive where repeats lie on both
sides of the bar and there are fewer than {ENOUGH} of them, or one of them says the contrary (that the other was faster;
of a time, that it was too long). Of several cases the one is shown that does worst; "where measured" is a verdict on
some of the cases only.
"""


def best(case: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a contender: the fastest of its settings, or its error if all failed."""
    rows: dict[str, dict[str, Any]] = {}
    for row in case["rows"]:
        so_far = rows.get(row["contender"])
        if so_far is None or row.get("median", 0) > so_far.get("median", 0):
            rows[row["contender"]] = row
    return list(rows.values())


def named(case: dict[str, Any], contender: str) -> dict[str, Any] | None:
    """The contender's row, if it did its work."""
    return next((row for row in best(case) if row["contender"] == contender and "median" in row), None)


def ratios(case: dict[str, Any], row: dict[str, Any], against: str = REFERENCE) -> list[float]:
    """How many times as fast as `against`, repeat by repeat."""
    reference = named(case, against)
    if reference is None:
        return []
    return [a / b for a, b in zip(row["images_per_second"], reference["images_per_second"], strict=True)]


def in_one_layout(case: dict[str, Any]) -> bool:
    """Whether diffusers was tried eagerly in both memory layouts, but compiled in one of them only."""
    settings = {
        name: {row["setting"].partition(",")[0] for row in case["rows"] if row["contender"] == name}
        for name in (REFERENCE, COMPILED)
    }
    return len(settings[COMPILED]) == 1 < len(settings[REFERENCE])


def verdict(values: list[float], wanted: float) -> str:
    """Of ratios, repeat by repeat, that are to be `wanted` at least: as RULE says."""
    on_both_sides = min(values) < wanted <= max(values)
    if on_both_sides and (len(values) < ENOUGH or min(values) < 1):
        return INCONCLUSIVE
    return REACHED if median(values) >= wanted else MISSED


def repeated(values: list[float]) -> str:
    """A ratio measured several times."""
    count = f"{len(values)} repeat{'s' * (len(values) > 1)}"
    return f"{median(values):.2f} x ({min(values):.2f} to {max(values):.2f} in {count})"


def plain_loop(found: list[dict[str, Any]], script: str) -> dict[str, Any]:
    return next(row for row in found if (row["script"], row["contender"]) == (script, "plain loop"))


def table(device: str, parts: dict[str, Any]) -> str:
    """The bars for this device and what RULE says of them."""
    lines = ["| bar | found | |", "|---|---|---|"]
    lines += [f"| {bar} | {found} | {said} |" for bar, found, said in _bars(device, parts)]
    return "\n".join(lines) + "\n" + RULE


Bar = tuple[str, str, str]


def _cases(part: str, device: str, parts: dict[str, Any]) -> list[dict[str, Any]]:
    """Every case of the part; one that was not measured has no rows."""
    measured = {case["name"]: case for case in parts[part]["found"]} if part in parts else {}
    names = [case.name for case in speed_cases.cases(part, device, quick=False)]
    return [measured.get(name, {"name": name, "rows": []}) for name in names]


def _single(bar: str, found: str, fine: bool) -> Bar:
    """Of what is measured once."""
    return bar, found, REACHED if fine else MISSED


def _worst(bar: str, found: list[tuple[int, float, str]], cases: list[dict[str, Any]]) -> Bar:
    """Of some cases' (place among VERDICTS, what ranks those of one verdict, what was found)."""
    if not found:
        return bar, "", NOT_MEASURED
    place, _, said = min(found)
    some = f" where measured ({len(found)} of {len(cases)} cases)" if len(found) < len(cases) else ""
    return bar, said, VERDICTS[place] + some


def _bars(device: str, parts: dict[str, Any]) -> Iterator[Bar]:
    a, b, c = (_cases(letter, device, parts) for letter in "abc")
    if device == "cuda":
        yield _faster("U-Net step, batch 64, at least 2 x diffusers", [x for x in b if x["name"] == DEFAULT_64], 2.0)
    else:
        yield _faster("U-Net step at least 1.3 x diffusers", b, 1.3)
    yield _faster("U-Net step never slower than diffusers compiled", b, 1.0, COMPILED)
    wanted = 1.5 if device == "cuda" else 1.3
    yield _faster(f"VAE step at least {wanted} x diffusers", a, wanted)
    yield _epoch("epoch of 3B (latents cached) at least 20 x a plain loop", parts, "3B", 20.0)
    yield _epoch("the same with the coursework's flat latent, at its 128 px", parts, FLAT, 20.0)
    if device.startswith("cpu"):
        yield _epoch("epoch of 3A at least 3 x a plain loop", parts, "3A", 3.0)
        yield _faster("DDIM sampling at least 1.3 x diffusers", c, 1.3)
    else:
        few = [case for case in c if case["name"].startswith("16 ")]
        yield _faster("DDIM sampling of 16 images at least 2 x diffusers", few, 2.0)
    yield _memory(b)
    yield _growth(parts)
    yield _many(parts)
    yield _slowest("--help of every script under 0.5 s", parts, "--help", 0.5)
    yield _slowest("first training step within 15 s, without compilation", parts, "first step", 15.0)
    if device == "cuda":
        yield _share([case for case in b if case["name"].startswith(LARGE)])
        yield _two_thousand(parts)


def _faster(bar: str, cases: list[dict[str, Any]], wanted: float, against: str = REFERENCE) -> Bar:
    """Our faster way, eager or compiled, in each case."""
    found = []
    for case in cases:
        rows = [row for name in ("stepwise", "stepwise compiled") if (row := named(case, name))]
        ways = [(median(values), row["contender"], values) for row in rows if (values := ratios(case, row, against))]
        if ways:
            ratio, name, values = max(ways)
            way = name.removeprefix("stepwise").strip() or "eager"
            said = f"{repeated(values)}, {way}, {case['name']}"
            if against == COMPILED and in_one_layout(case):
                said += f"; {COMPILED} in one memory layout only"
            found.append((VERDICTS.index(verdict(values, wanted)), ratio, said))
    return _worst(bar, found, cases)


def _epoch(bar: str, parts: dict[str, Any], script: str, wanted: float) -> Bar:
    found = [row for row in parts["d"]["found"] if row["script"] == script] if "d" in parts else []
    if not found:
        return bar, "", NOT_MEASURED
    plain = plain_loop(found, script)["repeats"]
    ours = [row["repeats"] for row in found if row["contender"] != "plain loop"]
    ways = [[a["later"] / b["later"] for a, b in zip(repeats, plain, strict=True)] for repeats in ours]
    fastest = max(ways, key=median)
    return bar, repeated(fastest), verdict(fastest, wanted)


def _memory(cases: list[dict[str, Any]]) -> Bar:
    bar = "peak memory of a 3B step at most that of diffusers, eager against eager"
    found = []
    for case in cases:
        ours, theirs = named(case, "stepwise"), named(case, REFERENCE)
        if ours and theirs and theirs["peak_mib"]:
            share = ours["peak_mib"] / theirs["peak_mib"]
            place = VERDICTS.index(REACHED if share <= 1 else MISSED)
            found.append((place, -share, f"{share:.2f} x ({case['name']})"))
    return _worst(bar, found, cases)


def _share(cases: list[dict[str, Any]]) -> Bar:
    bar = "the large U-Net at 25 % of the hardware's peak at least"
    rows = [row for case in cases for row in best(case) if row["contender"].startswith("stepwise") and "median" in row]
    if not rows:
        return bar, "", NOT_MEASURED
    row = max(rows, key=lambda row: row["median"])
    shares = [speed * cases[0]["flops"] / cases[0]["peak_flops"] for speed in row["images_per_second"]]
    return bar, f"{median(shares):.1%} ({row['contender']})", verdict([share / 0.25 for share in shares], 1.0)


def grown(samples: list[dict[str, Any]]) -> float:
    """MiB between the sample a fifth into the run and the last one."""
    own = [sample["resident_mib"] - sample.get("files_mib", 0) for sample in samples]  # files: the system's to drop
    return own[-1] - own[len(samples) // 5]


def _growth(parts: dict[str, Any]) -> Bar:
    bar = "no growth of memory over 10,000 steps of 3B (less than 1 %)"
    samples = parts["f"]["found"]["samples"] if "f" in parts else []
    if not samples or samples[-1]["step"] < 10_000:
        return bar, "", NOT_MEASURED
    return _single(bar, f"{grown(samples):+.1f} MiB", grown(samples) < 0.01 * samples[-1]["resident_mib"])


def encoding_ms(row: dict[str, Any]) -> float:
    """Milliseconds an image took to be read and encoded, less what a start on the cache takes."""
    return row["encoding_ms"] - 1000 * row["warm_first_step"] / row["images"]


def cost(sizes: list[dict[str, Any]]) -> float:
    """How many times as much as one of the few images one of the many costs, encoded and trained on once."""
    few, many = (encoding_ms(row) + row["training_ms"] for row in (sizes[0], sizes[-1]))
    return many / few


def _many(parts: dict[str, Any]) -> Bar:
    bar = "an image of 100,000 costs at most 1.1 times one of 1,000"
    sizes = parts["g"]["found"] if "g" in parts else []
    if not sizes or sizes[-1]["images"] < 100_000:
        return bar, "", NOT_MEASURED
    return _single(bar, f"{cost(sizes):.2f} x", cost(sizes) <= 1.1)


def _slowest(bar: str, parts: dict[str, Any], ending: str, wanted: float) -> Bar:
    """Of what part h timed under a name with this ending."""
    found = parts["h"]["found"] if "h" in parts else {}
    timed = {name: seconds for name, seconds in found.items() if name.endswith(ending)}
    said = []
    for name, seconds in timed.items():
        place = VERDICTS.index(verdict([wanted / value for value in seconds], 1.0))
        text = f"{median(seconds):.2g} s ({name.removesuffix(ending).strip(' ,')})"
        said.append((place, -median(seconds), text))
    return _worst(bar, said, list(timed))


def _two_thousand(parts: dict[str, Any]) -> Bar:
    bar = "2,000 steps of 3B with its defaults in 60 s, start-up included"
    samples = parts["f"]["found"]["samples"] if "f" in parts else []
    seconds = next((sample["seconds"] for sample in samples if sample["step"] == 2000), None)
    return (bar, "", NOT_MEASURED) if seconds is None else _single(bar, f"{seconds:.0f} s", seconds < 60)
