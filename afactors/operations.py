"""What an operator does to one actor: copy it out, bring it in, erase it. Mixed into `Runtime`."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from afactors_channels import Conflicting, HostedSession, StorageFull
from afactors_store import Store, StoreFull

from .opening import Life
from .portable import ActorExport, checked_key, exported_key, read_actor, write_actor
from .rotation import rotated, sessions_of
from .turn import ancestry, stopping

T = TypeVar("T")


class ActorOperations:
    """One actor as a whole, by its isolation key. The target's own code may call these for other keys than its own."""

    store: Store

    @abstractmethod
    def _opened_now(self) -> Life: ...

    @abstractmethod
    async def _in_trio(self, call: Callable[..., Awaitable[T]], *args: Any) -> T: ...

    async def export_actor(self, isolation_key: str, path: str | os.PathLike[str]) -> ActorExport:
        """Write an actor to a file, which replaces one of that name once it is whole.

        It is taken when the actor is quiet: turns that run are waited for, what waits goes on waiting until then. The
        file has everything that was said: treat it as a secret.

        Raises:
            BadRequest: That is no isolation key.
            NotFound: `actor_not_found`: the key has no state.
            Conflicting: `would_deadlock`: called from within one of its own turns.
            Overloaded: The runtime is stopping, there are too many actors, or others kept writing to this one.
            OSError: The file cannot be written.
        """
        return await self._in_trio(self._export_actor, isolation_key, Path(path))

    async def _export_actor(self, key: str, path: Path) -> ActorExport:
        key = (await self.store.claim(checked_key(key))).key
        async with self._reaching(key).supervisor.awake(key) as actor, actor.alone():
            await actor.still()
            return await write_actor(self.store, key, path)

    async def import_actor(self, path: str | os.PathLike[str], *, isolation_key: str | None = None) -> ActorExport:
        """Make an actor of a file that `export_actor` wrote: all of it, or nothing. Letters that waited then, run now.

        Args:
            path: The file.
            isolation_key: The key that it gets; by default the one that it had. Its session ids stay as they are.

        Raises:
            UnusableFile: `not_an_export`, `export_damaged` or `export_too_new`.
            Conflicting: `key_in_use`: the key has state, or leads to another one; `name_taken`: one of its names, or of
                the keys that lead to it, is another's; `would_deadlock`: called from within one of the key's own turns.
            BadRequest: That is no isolation key.
            Overloaded: The runtime is stopping, or there are too many actors.
            StorageFull: There is no room for it.
            OSError: The file cannot be read.
        """
        return await self._in_trio(self._import_actor, Path(path), isolation_key)

    async def _import_actor(self, path: Path, key: str | None) -> ActorExport:
        key = checked_key(key) if key is not None else await exported_key(path)
        async with self._reaching(key).supervisor.awake(key) as actor, actor.alone():
            await actor.still()
            try:
                return await read_actor(self.store, path, key)
            except StoreFull as exc:
                raise StorageFull("The server has no room to store this actor.") from exc
            finally:
                await actor.renewed()
                life = self._opened_now()
                life.alarms.notice()
                life.deliverer.look()

    async def erase_actor(self, isolation_key: str) -> bool:
        """Erase an actor: what runs and waits is cancelled, and every record, index and log of the key goes.

        Who asks something of the key meanwhile is refused, and may try again in a moment; what comes after begins anew.

        Returns:
            Whether there was anything.

        Raises:
            BadRequest: That is no isolation key.
            Conflicting: `would_deadlock`: called from within one of its own turns.
            Overloaded: The runtime is stopping, or there are too many actors.
        """
        return await self._in_trio(self._erase_actor, isolation_key)

    async def _erase_actor(self, key: str) -> bool:
        return await self._reaching(checked_key(key)).supervisor.erase(key)

    async def reset_session(self, isolation_key: str) -> str:
        """Have a key begin a new session; what was accepted before stays in the old one, which is kept.

        It is about requests that name no session. The old one goes on for those that do: `list_sessions` has its id.

        Returns:
            The new session's id, as in `ChannelSession.session_id`.

        Raises:
            BadRequest: That is no isolation key.
            Conflicting: `would_deadlock`: called from within one of the key's own turns.
            Overloaded: The runtime is stopping, or there are too many actors.
            StorageFull: There is no room for it.
        """
        return await self._in_trio(self._reset_session, isolation_key)

    async def _reset_session(self, key: str) -> str:
        key = (await self.store.claim(checked_key(key))).key
        session_id, commit = rotated(key)
        async with self._reaching(key).supervisor.awake(key) as actor:
            await actor.write(commit)
        return session_id

    async def list_sessions(self, isolation_key: str) -> Sequence[HostedSession]:
        """A key's sessions, without what was said in them: the current one first, then the latest begun.

        Threads and branches are among them, under the names that they have inside; those go on from a response id.

        Raises:
            BadRequest: That is no isolation key.
        """
        return await self._in_trio(sessions_of, self.store, checked_key(isolation_key))

    def _reaching(self, key: str) -> Life:
        """The open runtime, unless it stops, or the caller would wait for itself."""
        life = self._opened_now()
        if life.supervisor.draining:
            raise stopping()
        if any(turn.key == key for turn in ancestry.get()):
            raise Conflicting("The turn would wait for itself.", code="would_deadlock")
        return life
