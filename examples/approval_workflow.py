"""A workflow that asks a person before it acts, and waits for the answer: minutes or weeks, through any restart.

    python -m afactors examples.approval_workflow:make_desk
    python examples/approval_client.py                          (in another terminal)

Stop or kill the server while the question is open, and start it again: the answer finds it where it was.
"""

from dataclasses import dataclass
from typing import Never

from agent_framework import (
    Executor,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    handler,
    register_checkpoint_type,
    response_handler,
)

SMALL = 50  # up to so much, nobody is asked


@dataclass
class Refund:
    """What the desk is asked for, and what a person is shown."""

    order: str
    amount: int


# What waits is in a checkpoint, on disk; classes of your own are restored from there if they are registered (or named
# by `--checkpoint-type`, or `Runtime(checkpoint_types=…)`).
register_checkpoint_type(Refund)


class Clerk(Executor):
    """Takes the request, and asks for permission if it is a large one."""

    @handler
    async def take(self, text: str, ctx: WorkflowContext[Refund, str]) -> None:
        """A request, as it was typed: ``refund order-7 120``."""
        try:
            _, order, amount = text.split()
            refund = Refund(order, int(amount))
        except ValueError:
            await ctx.yield_output("Please say: refund ORDER AMOUNT")
            return
        if refund.amount <= SMALL:
            await ctx.send_message(refund)
        else:
            await ctx.request_info(refund, bool)  # the turn ends here; the answer is the next turn

    @response_handler
    async def decided(self, refund: Refund, approved: bool, ctx: WorkflowContext[Refund, str]) -> None:
        """The answer: true or false."""
        if approved:
            await ctx.send_message(refund)
        else:
            await ctx.yield_output(f"No refund for {refund.order}.")


class Cashier(Executor):
    """Pays, and remembers for this conversation what was paid."""

    @handler
    async def pay(self, refund: Refund, ctx: WorkflowContext[Never, str]) -> None:
        """The one step that changes the world."""
        total = ctx.get_state("paid", 0) + refund.amount
        ctx.set_state("paid", total)
        await ctx.yield_output(f"Paid {refund.amount} for {refund.order}; {total} in all.")


def make_desk() -> Workflow:
    """A new workflow for each conversation: none sees what another does."""
    clerk = Clerk(id="clerk")
    return WorkflowBuilder(start_executor=clerk, name="refunds").add_edge(clerk, Cashier(id="cashier")).build()
