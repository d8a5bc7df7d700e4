"""The public names of the three packages, pinned: adding or removing one is a decision, not an accident."""

from __future__ import annotations

import pytest

import afactors
import afactors_channels
import afactors_store

FACES = {
    afactors: """
        ActorExport AuthPolicy ChannelIdentity ChannelRequest ChannelSession ContinuationToken CurrentTurn Deliveries
        DeliveriesStatistics DeliveryPage DeliveryView DrainReport HostedRun HostedRunResult HostedSession
        IdentityResolver IsolationKeys Limits Question Reminder ResponseTarget RetryPolicy Runtime RuntimeStatistics
        SessionEdit StoreHistoryProvider TargetUnusable UnusableFile get_current_isolation_keys get_current_request
        get_current_turn serve
    """,
    afactors_channels: """
        BadRequest Channel ChannelCommand ChannelCommandContext ChannelContext ChannelContribution ChannelIdentity
        ChannelPush ChannelPushCodec ChannelRequest ChannelResponseContext ChannelResponseHook ChannelRunHook
        ChannelSession Conflicting ContinuationToken Endpoint HostError HostedRun HostedRunResult HostedSession
        HostedTurn IsolationKeys NotAllowed NotFound OnDisconnect OverlapPolicy Overloaded Push PushDeferred PushPolicy
        PushRejected Question QuestionKind Receive Repeated ResponseTarget ResponsesChannel Restarted RetryPolicy Route
        RunState Scope Send SessionEdit SessionMode StorageFull TargetFailed TelegramChannel TooLarge Transcriber
        Transcript Unprocessable WebhookChannel WebhookEndpoint WebhookSource
    """,
    afactors_store: """
        Append BadKey Claim Commit Committed Conflict Dead DeadLetter Delivered Delivery Fenced FormatTooNew Found
        Letter LmdbStore MAX_KEY_BYTES MAX_NAME_BYTES MemoryStore NewDelivery NewLetter Pending Postponed Retry
        RunRecord Settlement Slice Store StoreBroken StoreError StoreFull StoreLocked StoreStatistics StoreUnusable
        TakeNext Timer Work check_key
    """,
}


@pytest.mark.parametrize("package", FACES, ids=lambda package: package.__name__)
def test_the_face_of_a_package(package: object) -> None:
    modules = {name for name, value in vars(package).items() if type(value).__name__ == "module"}
    public = {name for name in vars(package) if not name.startswith("_") and name != "annotations"}
    assert sorted(public - modules) == sorted(FACES[package].split())
