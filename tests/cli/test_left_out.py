"""Tensors that an output has no place for: one line for each reason, the report has them all."""

from quantcli.cli.convert import left_out


def test_one_tensor_is_named() -> None:
    assert left_out([("lm_head.weight", "tied")]) == ["left out: lm_head.weight: tied"]
    assert left_out([]) == []


def test_several_of_one_reason_are_one_line() -> None:
    tensors = [(f"model.layers.61.{name}", "for multi-token prediction") for name in ("a", "b", "c")]
    assert left_out([*tensors, ("x", "the model computes it")]) == [
        "left out: 3 tensors, model.layers.61.a the first: for multi-token prediction",
        "left out: x: the model computes it",
    ]
