"""The CUDA sources with kernels left out: only cases that are named go, and sources that changed are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import slim_cuda

SWITCH = """static void mul_mat_vec_q_switch_type(int type) {
    switch (type) {
        case GGML_TYPE_Q4_0:
            run<GGML_TYPE_Q4_0>();
            break;
// ---
        case GGML_TYPE_IQ1_S:
            if (wide) {
                run<GGML_TYPE_IQ1_S, 2>();
                break;
            }
            run<GGML_TYPE_IQ1_S>();
            break;
        case GGML_TYPE_Q8_0:
            run<GGML_TYPE_Q8_0>();
            break;
        default:
            GGML_ABORT("fatal error");
    }
}

static void another() {
    switch (type) {
        case GGML_TYPE_IQ1_S:
            stay();
        default:
            break;
    }
}
"""


def test_other_cases_go_whole_and_everything_else_stays() -> None:
    """Fails when half a case stays, a kept one goes, or another function is touched."""
    kept = slim_cuda.without_cases(SWITCH, "mul_mat_vec_q_switch_type", lambda case: "IQ" not in case)
    first, second = SWITCH.index("        case GGML_TYPE_IQ1_S"), SWITCH.index("        case GGML_TYPE_Q8_0")
    assert kept == SWITCH[:first] + SWITCH[second:]


@pytest.mark.parametrize("name", ["gone", "another"])
def test_sources_that_changed_are_refused(name: str) -> None:
    """Fails when a build goes on with sources that this was not written for."""
    with pytest.raises(slim_cuda.SlimError, match=name):
        slim_cuda.without_cases(SWITCH, name, lambda case: case == "GGML_TYPE_IQ1_S")


def test_instances_of_other_types_and_heads_go(tmp_path: Path) -> None:
    """Fails when a file that is still called for is missing, or one stays that nothing calls."""
    cuda = tmp_path / "ggml" / "src" / "ggml-cuda"
    instances = cuda / "template-instances"
    instances.mkdir(parents=True)
    for name, function in slim_cuda.BY_TYPE:
        (cuda / name).write_text(SWITCH.replace("mul_mat_vec_q_switch_type", function))
    for name, function in slim_cuda.BY_HEAD:
        cases = "".join(f"        case {n:3}:\n            run<{n}>();\n" for n in (64, 80, 128))
        (cuda / name).write_text(f"void {function}(int n) {{\n{cases}        default:\n            break;\n}}\n")
    for kind in ("q4_0", "q8_0", "iq1_s"):
        (instances / f"mmq-instance-{kind}.cu").touch()
    for n in (64, 80):
        (instances / f"fattn-tile-instance-dkq{n}-dv{n}.cu").touch()
    line = "DECL_FATTN_MMA_F16_CASE({0}, {0}, 8, 4);\n"
    (instances / "fattn-mma-f16-instance-a.cu").write_text("".join(line.format(n) for n in (64, 80, 128)))
    (instances / "fattn-mma-f16-instance-b.cu").write_text(line.format(576))
    assert slim_cuda.main([str(tmp_path)]) == 0
    assert sorted(file.stem for file in instances.iterdir()) == [
        "fattn-mma-f16-instance-a",
        "fattn-tile-instance-dkq64-dv64",
        "mmq-instance-q4_0",
        "mmq-instance-q8_0",
    ]
    assert "80" not in (instances / "fattn-mma-f16-instance-a.cu").read_text()
    assert "case  80" not in (cuda / "fattn.cu").read_text()
