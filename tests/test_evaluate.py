"""What an evaluation measures, that it disturbs nothing, and what is made of two of them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  the name every PyTorch user knows
from tiny_training import CPU, plan_for, questions, rows, tokenizer, train, training

from trainer.build import Training
from trainer.evaluate import evaluate, general_passages, general_rows, text_loss
from trainer.evaluation_results import Comparison, Evaluation, HistoryPoint, Piece
from trainer.example_formats import Example, Turn
from trainer.generate import prompt_tokens
from trainer.paired_change import paired_change
from trainer.text_scores import is_exact, rouge_l
from trainer.verdict import compare

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Position ids are not supported"),
]
PLAN = plan_for(method="lora", autocast_dtype="none")
SEEN = [row for index, row in enumerate(rows()) if index % 2 == 0]  # by the model, before


def evaluation(made: Training, num_references: int = 0, **more: bool) -> Evaluation:
    model, plan = made.model, made.plan
    return evaluate(
        model,
        tokenizer(),
        SEEN[5:],
        questions()[:num_references],
        plan,
        CPU,
        seed=3,
        **more,
    )


@pytest.fixture(scope="module")
def untrained() -> Training:
    return training(PLAN)


@pytest.fixture(scope="module")
def before(untrained: Training) -> Evaluation:
    return evaluation(untrained, num_references=3)


def test_losses_are_those_of_the_logits_token_by_token(
    untrained: Training, before: Evaluation
) -> None:
    losses = []
    for row in SEEN[5:]:
        with torch.no_grad():
            logits = untrained.model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        for place, label in enumerate(row["labels"][1:]):
            if label != -100:
                losses.append(F.cross_entropy(logits[place], torch.tensor(label)).item())
    mean = sum(losses) / len(losses)
    assert before.num_validation_tokens == len(losses)
    assert before.validation_loss == pytest.approx(mean, rel=1e-5)
    assert before.perplexity == pytest.approx(math.exp(mean), rel=1e-5)
    pieces = before.validation_pieces
    assert sum(piece.num_tokens for piece in pieces) == len(losses)
    assert sum(piece.loss for piece in pieces) == pytest.approx(sum(losses), rel=1e-5)


@pytest.mark.parametrize(
    "keys",
    [
        {"method": "full", "loss": "chunked"},
        {"method": "prompt_tuning", "micro_batch_size": 3},
        {"method": "qlora", "autocast_dtype": "bf16"},
    ],
    ids=lambda keys: keys["method"],
)
def test_a_model_is_left_exactly_as_it_was(keys: dict[str, object], before: Evaluation) -> None:
    def two_steps(interrupted: bool) -> list[float]:
        made = training(PLAN.changed(**keys))
        losses = train(made, SEEN[:2], 1)
        made.model.training = False  # alone among its modules: whatever was set is not ours
        modes = [module.training for module in made.model.modules()]
        torch.manual_seed(11)
        if interrupted:
            found = evaluation(made, num_references=1, without_adapter=True)
            assert found.num_references == 1
            if keys["method"] == "prompt_tuning":
                assert found.validation_loss == pytest.approx(before.validation_loss, rel=1e-5)
        assert [module.training for module in made.model.modules()] == modes
        drawn = torch.rand(1).item()
        made.model.training = True
        return [*losses, drawn, *train(made, SEEN[:2], 2)]

    assert two_steps(interrupted=True) == two_steps(interrupted=False)


def test_the_same_model_has_not_changed(untrained: Training, before: Evaluation) -> None:
    again = evaluation(untrained, num_references=3)
    found = compare(before, again, [])
    assert found.verdict == "no_change"
    assert [one.output for one in again.samples] == [one.output for one in before.samples]
    assert before.samples[0].exact  # it was trained on the first question, and not on the second
    assert not before.samples[1].exact
    assert before.exact_match == pytest.approx(sum(one.exact for one in before.samples) / 3)
    assert "3 references are few" in " ".join(found.warnings)
    restored = Comparison.model_validate_json(found.model_dump_json())
    assert restored == found


def test_training_on_four_examples_until_they_are_known_by_heart_is_overfitting() -> None:
    made = training(plan_for(method="full", autocast_dtype="none"))
    first = evaluation(made)
    history = []
    for step in range(0, 12, 4):
        history += [
            HistoryPoint(step=step, training_loss=loss) for loss in train(made, rows()[1:8:2], 4)
        ]
    found = compare(first, evaluation(made), history)
    assert found.verdict == "overfitted"
    assert "while training loss fell" in found.sentence
    assert found.validation_change is not None
    assert found.validation_change.is_rise


def test_a_model_that_gives_no_numbers_got_worse(untrained: Training, before: Evaluation) -> None:
    head = untrained.model.get_output_embeddings().weight
    kept = head.data.clone()
    head.data.fill_(math.nan)
    broken = evaluation(untrained)
    head.data.copy_(kept)
    assert broken.validation_loss is None
    found = compare(before, broken)
    assert found.verdict == "worse"
    assert "no numbers" in found.sentence


def test_no_rows_are_no_loss_and_a_plan_with_long_rows_has_the_same_general_text(
    untrained: Training,
) -> None:
    assert text_loss(untrained.model, [], PLAN, CPU).loss is None
    short, long = (general_rows(tokenizer(), length) for length in (64, 4096))
    assert len(long) == len(general_passages()) >= 12
    assert sum(len(row["input_ids"]) for row in short) <= sum(len(row["input_ids"]) for row in long)
    words = " ".join(general_passages()).split()
    assert 1400 < len(words) < 2200
    assert "licence" not in words


def test_a_prompts_tokens_are_those_that_training_has_before_the_answer() -> None:
    talk = Example(turns=(Turn("user", "What is LoRA?"), Turn("assistant", "Two small matrices.")))
    for example, row in ((questions()[2], rows()[2]), (talk, None)):
        if row is None:
            text = tokenizer().decode(prompt_tokens(tokenizer(), example))
            assert text == "user:\nWhat is LoRA?\nassistant:\n"
        else:
            num_given = row["labels"].count(-100)
            assert prompt_tokens(tokenizer(), example) == row["input_ids"][:num_given]


def test_rouge_l_and_exact_match() -> None:
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", reference) == 0.75  # Lin (2004), section 3.1
    assert rouge_l("the gunman kill police", reference) == 0.5
    assert rouge_l("Police, killed: the GUNMAN!", reference) == 1
    assert rouge_l("", reference) == 0
    assert rouge_l("今天天气好", "今天天气很好") == pytest.approx(10 / 11)
    assert is_exact("  The answer,\n is 4. ", "the answer is 4")
    assert not is_exact("the answer is 5", "the answer is 4")
    assert not is_exact("C++", "C")


# --- the verdict's rules, on figures made for them -----------------------------------------------


def made_up(validation: float, general: float, noise: float = 0.0) -> Evaluation:
    """An evaluation of 40 pieces of 10 tokens each, of which every other one is off by noise."""

    def pieces(mean: float, wobble: float) -> tuple[Piece, ...]:
        signs = [1 if index % 2 else -1 for index in range(40)]
        return tuple(Piece(loss=10 * (mean + sign * wobble), num_tokens=10) for sign in signs)

    return Evaluation(
        validation_loss=validation,
        perplexity=math.exp(validation),
        num_validation_tokens=400,
        validation_pieces=pieces(validation, noise),
        general_loss=general,
        general_perplexity=math.exp(general),
        num_general_tokens=400,
        general_pieces=pieces(general, 0.01),
        seconds=1,
        seed=0,
    )


def history(training_losses: list[float], validation_losses: list[float]) -> list[HistoryPoint]:
    pairs = zip(training_losses, validation_losses, strict=True)
    return [
        HistoryPoint(step=step, training_loss=trained, validation_loss=validated)
        for step, (trained, validated) in enumerate(pairs, start=1)
    ]


FALLING = [2.0, 1.5, 1.0, 0.5]
START = made_up(2.0, 3.0)


@pytest.mark.parametrize(
    ("after", "losses", "verdict", "said"),
    [
        (made_up(1.5, 3.0), [1.8, 1.6, 1.55, 1.5], "learned", "from 2.000 to 1.500"),
        (made_up(1.9, 3.0, noise=1.0), [2, 2, 1.9, 1.9], "no_change", "between -0."),
        (made_up(1.995, 3.0), [2, 2, 2, 1.995], "no_change", "(perplexity 7.389 to 7.352)"),
        (made_up(1.7, 3.0), [1.8, 1.5, 1.6, 1.7], "overfitted", "0.200 above its lowest"),
        (made_up(1.53, 3.0), [1.8, 1.5, 1.51, 1.53], "learned", "It learned."),
        (made_up(1.5, 3.3), [1.8, 1.6, 1.55, 1.5], "forgot", "It learned as well."),
        (made_up(1.7, 3.3), [1.8, 1.5, 1.6, 1.7], "forgot", "It overfitted as well."),
        (made_up(1.5, 3.05), [1.8, 1.6, 1.55, 1.5], "learned", "became harder for it"),
    ],
)
def test_the_verdict_follows_the_figures(
    after: Evaluation, losses: list[float], verdict: str, said: str
) -> None:
    found = compare(START, after, history(FALLING, losses))
    assert found.verdict == verdict
    assert said in found.sentence


def test_a_loss_that_rose_without_training_going_well_is_worse_and_not_overfitted() -> None:
    risen = history([2.0, 2.5, 3.0, 3.5], [2.1, 2.2, 2.3, 2.4])
    assert compare(START, made_up(2.4, 3.0), risen).verdict == "worse"
    assert compare(START, made_up(2.4, 3.0), history(FALLING, [2.1, 2.2, 2.3, 2.4])).verdict == (
        "overfitted"
    )


def test_without_validation_rows_only_forgetting_can_be_said() -> None:
    nothing = {"validation_loss": None, "perplexity": None, "validation_pieces": ()}
    start, same, harder = (
        made_up(2.0, general).model_copy(update=nothing) for general in (3.0, 3.0, 3.5)
    )
    unknown = compare(start, same)
    assert unknown.verdict is None
    assert "cannot be said" in unknown.sentence
    assert "Hold out validation examples" in " ".join(unknown.warnings)
    assert compare(start, harder).verdict == "forgot"


def test_few_tokens_are_never_called_a_change() -> None:
    cut = {"validation_pieces": START.validation_pieces[:5], "num_validation_tokens": 50}
    start, end = START.model_copy(update=cut), made_up(1.0, 3.0)
    end = end.model_copy(update=cut | {"validation_pieces": end.validation_pieces[:5]})
    found = compare(start, end)
    assert found.verdict == "no_change"
    assert "too few" in found.sentence
    assert "hold out more examples" in " ".join(found.warnings)


def test_the_interval_covers_chance_and_narrows_with_more_text() -> None:
    """Of 200 pairs of noise with no change, 99 % intervals miss zero a few times at most."""
    generator = torch.Generator().manual_seed(0)
    missed = 0
    for _ in range(200):
        noise = torch.randn(2, 10, generator=generator).tolist()
        one, other = ([Piece(loss=value, num_tokens=4) for value in half] for half in noise)
        change = paired_change(one, other)
        assert change is not None
        missed += change.is_rise or change.is_fall
    assert missed <= 6  # 2 expected
    widths = []
    for count in (10, 100, 1000):
        noise = torch.randn(count, generator=generator).tolist()
        change = paired_change(
            [Piece(loss=0, num_tokens=1)] * count,
            [Piece(loss=value, num_tokens=1) for value in noise],
        )
        assert change is not None
        assert change.low is not None
        assert change.high is not None
        widths.append(change.high - change.low)
    assert all(wide > 2 * narrow for wide, narrow in pairwise(widths))
