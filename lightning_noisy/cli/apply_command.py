"""``lightning-noisy apply``, which needs no Lightning where the images are files."""

from collections.abc import Sequence

from jsonargparse import ArgumentParser
from rich.console import Console

from lightning_noisy.audit.cleaning.manifest import show_report
from lightning_noisy.audit.cleaning.plan import APPLIED_KINDS, DEFAULT_KINDS
from lightning_noisy.audit.label_audit import LabelAudit
from lightning_noisy.cli.parser import AUDIT_COMMANDS, OneSentenceErrors
from lightning_noisy.utils import PROGRAM


class ApplyParser(OneSentenceErrors, ArgumentParser):
    """jsonargparse's parser, for which a user's mistake is one sentence."""


def run_apply(arguments: Sequence[str]) -> None:
    """Parses the arguments behind ``apply``, and does it."""
    parser = ApplyParser(prog=f"{PROGRAM} apply", description=AUDIT_COMMANDS["apply"])
    parser.add_argument("--config", action="config", help="A YAML file with these options.")
    parser.add_argument("--audit", type=str, required=True, help="The folder that `audit` wrote.")
    parser.add_argument("--policy", type=str, required=True, help="For images not reviewed: drop, relabel or weight.")
    parser.add_argument("--decisions", type=str, help="What the report page has saved of a review.")
    parser.add_argument(
        "--kinds", type=list[str], default=list(DEFAULT_KINDS), help=f"Issues to clean, of {', '.join(APPLIED_KINDS)}."
    )
    parser.add_argument("--output", type=str, required=True, help="The manifest: .parquet, .csv or .jsonl.")
    options = parser.parse_args(list(arguments))
    report = LabelAudit(options.audit).apply(options.policy, options.output, options.decisions, kinds=options.kinds)
    show_report(Console(), report)
