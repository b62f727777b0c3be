"""Tensors that are not in the output: one line for each reason; the report lists all of them."""

from quantcli.cli.convert import left_out


def test_one_tensor_is_named() -> None:
    assert left_out([("lm_head.weight", "tied")]) == ["dropped: lm_head.weight: tied"]
    assert left_out([]) == []


def test_several_of_one_reason_are_one_line() -> None:
    tensors = [(f"model.layers.61.{name}", "for multi-token prediction") for name in ("a", "b", "c")]
    assert left_out([*tensors, ("x", "the model computes it")]) == [
        "dropped: 3 tensors (first: model.layers.61.a): for multi-token prediction",
        "dropped: x: the model computes it",
    ]
