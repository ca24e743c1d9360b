"""Each question's answer in a line or two, from the JSON that its command wrote."""

from __future__ import annotations

from typing import Any


def machine(result: Any) -> str:
    """What it is measured on."""
    driver = f", driver {result['driver']}" if result.get("driver") else ""
    compiler = "yes" if result["C compiler"] and result["Python.h"] else "no"
    return f"{result['device']}{driver}; Triton can compile: {compiler}"


def kernel_tests(result: Any) -> str:
    """How many passed, and the names of those that failed."""
    failed = result["failed"]
    text = f"{len(result['passed'])} passed, {len(failed)} failed, {len(result['skipped'])} skipped"
    return "; ".join([text, *(f"{name}: {said}" for name, said in list(failed.items())[:5])])


def losses(result: Any) -> str:
    """The largest difference of each comparison."""
    parts = [
        f"{one['case']} against {one['against']}: {one['difference']:.1e} "
        f"({'within' if one['good'] else 'beyond'} {one['limit']:.0e})"
        for one in result["comparisons"]
    ]
    return "; ".join(parts) or "nothing to compare with yet"


def plan(result: Any) -> str:
    """Speed, idle time and memory compared with the plan, a line per run."""
    lines = []
    for one in result["cases"]:
        memory = one["peak_memory_bytes"] / 1e9, one["planned_memory_bytes"] / 1e9
        mfu = "-" if one["mfu"] is None else f"{one['mfu']:.1%}"
        idle = one["trace"]["idle_fraction"] if one["trace"] else None
        lines.append(
            f"{one['model']} phase {one['phase']} {one['precision']}, micro batch "
            f"{one['micro_batch_size']} x {one['accumulation']}: MFU {mfu} (planned "
            f"{one['planned_mfu']:.1%}), GPU idle {'-' if idle is None else f'{idle:.1%}'}, "
            f"{memory[0]:.1f} GB (planned {memory[1]:.1f}), {one['update_seconds']:.3f} s per update "
            f"(planned {one['planned_update_seconds']:.3f})"
        )
    return "; ".join(lines)


def host(result: Any) -> str:
    """Milliseconds of the host's parts."""
    return "; ".join(
        f"{layers} layers: " + ", ".join(f"{part} {ms:.1f} ms" for part, ms in parts.items())
        for layers, parts in result["milliseconds"].items()
    )


def switches(result: Any) -> str:
    """The time of each run as a multiple of the run as it is."""
    rows = result["rows"]
    measured = [row for row in rows if "update_seconds" in row]
    if not measured:
        return "nothing was measured"
    usual = measured[0]["update_seconds"]
    parts = [f"{row['name']} x {row['update_seconds'] / usual:.2f}" for row in measured[1:]]
    parts += [f"{row['name']}: {row['outcome']}" for row in rows if row["outcome"] != "done"]
    return "; ".join(parts)


def optimizer(result: Any) -> str:
    """LAMB against the floor of bytes and its peers."""
    floor = [f"{row['name']} x {row['times_floor']:.2f}" for row in result]
    return "time over that of copying 28 bytes per parameter: " + "; ".join(floor)


def attention(result: Any) -> str:
    """The fastest implementation of each length."""
    rows = [row for row in result["rows"] if "ms" in row]
    parts = []
    for length in sorted({row["length"] for row in rows}):
        own = sorted((row for row in rows if row["length"] == length), key=lambda row: row["ms"])
        shown = ", ".join(f"{row['name']} {row['ms']:.2f} ms" for row in own)
        parts.append(f"{length} tokens: {shown}")
    return "; ".join(parts)


def resume(result: Any) -> str:
    """Whether the bits are the same."""
    ends = " and ".join(
        f"{name} ({f'ended by signal {-status}' if status < 0 else f'exit status {status}'})"
        for name, status in result["statuses"].items()
    )
    if result["same_losses"] and not result["other_tensors"]:
        return f"yes, all {result['updates']} losses and the last checkpoint, after {ends}"
    return (
        f"no: first other loss at update {result['first_other_loss']}, {result['other_tensors']} other "
        f"values in the checkpoint, after {ends}"
    )


def two_ranks(result: Any) -> str:
    """How far the losses of two ranks differ."""
    return "; ".join(
        f"{name}: losses differ by at most {case['difference']:.1e} (limit {case['limit']:.0e})"
        for name, case in result["cases"].items()
    )


def steps(result: Any) -> str:
    """Real tokens per second of our packed step in each case, and the ratio to transformers."""
    parts = []
    for case in result["cases"]:
        own = case["contestants"][0]
        peak = case["published_peak_gflops"]
        share = f", {own['gflops'] / peak:.1%} of the published peak" if peak else ""
        ratio = own["times_transformers"]
        times = f", x {ratio:.2f} transformers" if ratio else ""
        parts.append(
            f"{case['model']} {case['length']} {case['precision']}: "
            f"{own['tokens_per_second']:,.0f} tokens/s{share}{times}"
        )
    return "; ".join(parts)


def contestants(result: Any) -> str:
    """Samples per second of every contestant."""
    rows = result["contestants"]
    return "; ".join(f"{row['name']} {row['samples_per_second']:,.0f} samples/s" for row in rows)


def jitter(result: Any) -> str:
    """Compilations after the warm-up, and how far the slow steps are from the usual ones."""
    parts = []
    for row in result["rows"]:
        compiled = ", ".join(f"{kind} {n}" for kind, n in row["compiled_after"].items())
        parts.append(f"{row['name']}: compiled after the warm-up: {compiled or 'nothing'}")
    return "; ".join(parts)
