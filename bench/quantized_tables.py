"""The README's tables about quantisation."""

from __future__ import annotations

from typing import Any

from markdown_tables import markdown, provenance

#: Contenders of `cpu_int8.py` and the pairs whose ratio is shown.
CONTENDERS = ("plait", "plait int8", "onnxruntime", "onnxruntime int8")
PAIRS = (("plait int8", "plait"), ("plait int8", "onnxruntime int8"))


def quantized_accuracy(record: dict[str, Any]) -> str:
    """Accuracy after quantisation, and whether the CPU's integers are the interpreter's."""
    rows = []
    for row in record["rows"]:
        rows.append([row["network"], "f32", f"{row['f32_accuracy']:.2f}", "", "", "1", ""])
        for way in row["ways"]:
            if "failure" in way:
                rows.append(["", way["way"], way["failure"], "", "", "", ""])
                continue
            integers = way.get("integers")
            rows.append(
                [
                    "",
                    way["way"],
                    f"{way['accuracy']:.2f}",
                    f"{way['loss']:+.2f}",
                    f"{100 * way['integer_macs']:.0f} %",
                    f"1/{way['bytes_f32'] / way['bytes']:.1f}",
                    "" if integers is None else f"{integers['differing']} of {integers['elements']:,}",
                ]
            )
    headings = [
        "network",
        "way",
        "accuracy, %",
        "loss, points",
        "integer MACs",
        "bytes",
        "integers unlike the interpreter's",
    ]
    note = (
        f"\n{record['data']}: {record['train']} images to train, {record['test']} to test, "
        f"{record['calibration_images']} of the former to calibrate; seed {record['seed']}.\n"
    )
    return markdown(headings, rows) + note + provenance(record)


def cpu_int8(record: dict[str, Any]) -> str:
    """int8 on the CPU against f32, and against ONNX Runtime on the same QDQ model."""
    rows = []
    for row in record["rows"]:
        times = [row["contenders"][name].get("ms") for name in CONTENDERS]
        cells = [f"{time:.3g}" if time else "failed" for time in times]
        for first, second in PAIRS:
            left, right = (row["contenders"][name].get("ms") for name in (first, second))
            cells.append(f"{right / left:.2f}x" if left and right else "")
        rows.append([row["model"], str(row["batch"]), *cells, str(row.get("disagreement", ""))])
    headings = ["model", "batch", *(f"{name} ms" for name in CONTENDERS)]
    headings += [f"{a} against {b}" for a, b in PAIRS]
    means = [
        f"{' against '.join(pair.split(' / '))}: {found['geometric_mean']:.2f}x"
        for pair, found in record["summary"].items()
    ]
    note = (
        f"\nGeometric means of how many times faster the first is: {'; '.join(means)}. The last column "
        "is the largest difference of the two int8 results, in 1/255 of the range of the output.\n"
    )
    return markdown([*headings, "gap"], rows) + note + provenance(record)


def a100_integer(record: dict[str, Any]) -> str:
    """Share of the multiply-adds of int8 models in kernels with integer products, from the machine code."""
    rows = []
    for row in record["rows"]:
        worst = row["worst_difference"]
        rows.append(
            [
                row["model"],
                str(row["batch"]),
                f"{row['macs'] / 1e9:.2f}",
                f"{100 * row['integer_macs'] / row['macs']:.1f} %",
                f"{row['products']} / {row['products_of_activations']}",
                f"{row['integer_kernels']} / {row['kernels']}",
                str(row["registers"]),
                str(row["spills"]),
                "not run" if row["elements_off"] is None else f"{row['elements_off']} ({worst:.1e})",
            ]
        )
    headings = [
        "model",
        "batch",
        "GMAC",
        "in kernels with IMMA or IDP",
        "products / of two activations",
        "such kernels / all",
        "most registers",
        "spilled bytes",
        "emulated: elements off (worst, of the range)",
    ]
    return markdown(headings, rows) + provenance(record)


def saq(record: dict[str, Any]) -> str:
    """Sharpness-aware quantisation against plain quantisation-aware training."""

    def spread(row: dict[str, Any], name: str, factor: float, digits: int, by: str | None = None) -> str:
        other = row[by or f"{name}_std"]
        return f"{factor * row[name]:.{digits}f} ± {factor * other:.{digits}f}"

    rows = [
        [
            str(row["bits"]),
            row["label"],
            f"{row['rho']:g}",
            spread(row, "test", 100, 2),
            spread(row, "gain_over_sgd", 100, 2, "gain_standard_error"),
            spread(row, "top_eigenvalue", 1, 1),
            spread(row, "adversarial_sharpness", 1, 3),
            f"{row['time_ratio']:.2f}x",
        ]
        for row in record["rows"]
    ]
    headings = [
        "bits",
        "method",
        "rho",
        "test accuracy, %",
        "gain on LSQ by SGD, points (± standard error)",
        "top Hessian eigenvalue",
        "sharpness",
        "training time",
    ]
    mean, deviation = 100 * record["float_test"], 100 * record["float_test_std"]
    notes = [
        f"Mean ± standard deviation of {len(record['seeds'])} seeds; in floating point "
        f"{mean:.2f} ± {deviation:.2f} %.",
        *(f"{said}." for said in record["findings"]),
        *record["notes"],
    ]
    return (
        markdown(headings, rows) + "\n" + "\n".join(f"- {note}" for note in notes) + "\n" + provenance(record)
    )
