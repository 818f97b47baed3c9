"""An account for people: a few lines a stage, whatever the number of classes."""

from __future__ import annotations

from collections.abc import Sequence

from corruptkit.accounting import Account, CaptionAccount, CaptionCounts, Fit, LabelAccount, StageAccount

_MOST = 10  # classes, and pairs of classes, that are named
_DOUBT = 1e-4


def account_lines(account: Account, names: Sequence[str] = ()) -> list[str]:
    """What was asked for and done, by stage, then the rows of each class and the captions; `names` are those of the classes."""
    lines = [line for number, stage in enumerate(account.stages) for line in _stage_lines(number, stage, account.rows, names)]
    if account.classes is not None and any(stage.labels for stage in account.stages):
        lines += _class_lines(account.classes, names)
    if account.captions_before is not None and account.captions_after is not None:
        lines += [_caption_line("before", account.captions_before), _caption_line("after", account.captions_after)]
    return lines


def _stage_lines(number: int, stage: StageAccount, rows: int, names: Sequence[str]) -> list[str]:
    whole = f"all {rows:,} rows" if stage.of == "all" else f"{stage.eligible:,} eligible rows"
    lines = [
        f"  stage {number}   {stage.kind} {stage.mode}".rstrip() + f", ratio {stage.ratio} of {whole}",
        f"    selected  {stage.selected:,}: ratio {stage.selected_ratio}",
        f"    edited    {stage.edits:,}: ratio {stage.effective_ratio} of all rows",
    ]
    if stage.labels is not None:
        lines += _label_lines(stage.labels, names)
    return lines + (_measure_lines(stage.captions) if stage.captions is not None else [])


def _label_lines(labels: LabelAccount, names: Sequence[str]) -> list[str]:
    lines = []
    if labels.targets is not None:
        lines.append(f"    targets   {_judge_fit(labels.targets, 'as the mode declares', 'NOT as the mode declares')}")
    if labels.classes is not None:
        lines.append(f"    classes   {_judge_fit(labels.classes, 'each hit by its share', 'NOT each hit by its share')}")
    most = sorted(labels.confusion, key=lambda cell: (-cell[2], cell))
    lines.append(f"    {'edits':>8}  old class -> new class")
    lines += [f"    {count:>8,}  {_name_class(old, names)} -> {_name_class(new, names)}" for old, new, count in most[:_MOST]]
    if rest := most[_MOST:]:
        lines.append(f"    {sum(count for _, _, count in rest):>8,}  in {len(rest):,} other pairs of classes")
    return lines


def _judge_fit(fit: Fit, fits: str, differs: str) -> str:
    if fit.outside:
        return f"{differs}: {fit.outside:,} edits that it rules out"
    if fit.p_value is None:
        return f"{fits}, which leaves nothing to compare"
    numbers = f"chi-square {fit.statistic:,.1f}, {fit.degrees:,} degrees of freedom, {fit.compared:,} edits"
    return f"{fits if fit.p_value >= _DOUBT else differs}: p = {fit.p_value:.3g} ({numbers})"


def _name_class(label: int, names: Sequence[str]) -> str:
    return f"{label} ({names[label]})" if label < len(names) else str(label)


def _class_lines(classes: Sequence[tuple[int, int, int]], names: Sequence[str]) -> list[str]:
    ordered = sorted(classes, key=lambda row: (-abs(row[2] - row[1]), row))
    most, rest = ordered[:_MOST], ordered[_MOST:]
    what = "class" if len(classes) <= _MOST else f"class (those of {len(classes):,} that changed most)"
    lines = [f"  {'before':>10}{'after':>10}  {what}"]
    lines += [f"  {before:>10,}{after:>10,}  {_name_class(label, names)}" for label, before, after in sorted(most)]
    if rest:
        lines.append(f"  {sum(row[1] for row in rest):>10,}{sum(row[2] for row in rest):>10,}  the others")
    return lines


def _measure_lines(captions: CaptionAccount) -> list[str]:
    lengths = (
        f"{captions.old_words:.1f} words, {captions.old_characters:.1f} characters before; "
        f"{captions.new_words:.1f} words, {captions.new_characters:.1f} characters after"
    )
    lines = [f"    lengths   {lengths} (means of the edits)"]
    if captions.pairs is not None:
        lines.append(f"    pairs     {captions.pairs:,}, {captions.pairs_missing:,} missing")
    return lines


def _caption_line(when: str, counts: CaptionCounts) -> str:
    shared = f"{counts.shared:,} rows whose caption another row has"
    return f"  captions {when:<7} {counts.rows:,}, {counts.distinct:,} distinct, {counts.empty:,} empty; {shared}"
