"""Every deliberate error: what happened, where in the user's model, and what to do.

`str(error)` is the message, an indented `at:` line when a place is known, and after a blank line
the hint. Each class has a section of its own in `docs/messages.md`.
"""


class SlimgraphError(Exception):
    """Base of every error slimgraph raises on purpose.

    Args:
        message: What happened; lower case, names in backticks, no full stop.
        where: The node and the place in the user's code, such as ``%add (resnet.py:93)``.
        hint: What to do about it.
    """

    def __init__(self, message: str, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, where, hint)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        """The whole text, as the command line prints it behind `error: `."""
        place = f"\n  at: {self.where}" if self.where else ""
        hint = f"\n\nhint: {self.hint}" if self.hint else ""
        return f"{self.message}{place}{hint}"


class UnknownOpWarning(UserWarning):
    """An op has no rule, so the channels it touches stay."""


class InexactWarning(UserWarning):
    """Something was asked for that does not compute the same."""


class TraceError(SlimgraphError):
    """The model cannot be traced: its forward fails or branches on data."""


class RuleError(SlimgraphError):
    """An op rule is wrong."""


class DuplicateRuleError(RuleError):
    """Two rules claim the same op."""


class UnsupportedOpError(RuleError):
    """An op has no rule and `strict=True` was asked for."""


class GroupError(SlimgraphError):
    """A question about groups that has no answer."""


class UnknownGroupError(GroupError):
    """No group or module of that name."""


class MaskError(SlimgraphError):
    """A mask that no smaller model can realise."""


class MaskLengthError(MaskError):
    """A mask whose length is not the number of channels."""


class MaskConflictError(MaskError):
    """Two entries of one mask disagree about a channel."""


class EmptiedGroupError(MaskError):
    """A mask, or a budget, that leaves a group or a value without any channel."""


class FrozenChannelError(MaskError):
    """A mask that removes a channel which has to stay."""


class UnevenBlocksError(MaskError):
    """A mask that keeps different numbers of channels in blocks that must stay equal."""


class VaryingChannelError(MaskError):
    """A mask that removes a channel whose effect, to be kept, is not one of a constant."""


class BudgetError(SlimgraphError):
    """A budget that makes no sense or cannot be met."""


class PlanError(SlimgraphError):
    """A plan that does not fit the model it is applied to."""


class PassError(SlimgraphError):
    """A pass broke its contract."""


class PreconditionError(PassError):
    """What a pass requires does not hold for its input."""


class PostconditionError(PassError):
    """What a pass ensures does not hold for its result."""


class UntruthfulPassError(PassError):
    """A pass changed its input, or misreported whether it modified anything."""


class PassFailedError(PassError):
    """A pass raised an exception of its own."""


class ExportError(SlimgraphError):
    """The model cannot be written as ONNX."""


class OnnxExportError(ExportError):
    """torch.onnx or the ONNX checker refused the model."""


class ParityError(ExportError):
    """Two models that must agree do not."""


class FileError(SlimgraphError):
    """A file that cannot be read or written."""


class UnsafeFileError(FileError):
    """A file that would run code when loaded."""
