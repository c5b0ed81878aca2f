"""One scan of a host: what it says, what is done about it, and how it gets to know."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import threads
from .errors import UserError
from .mrd_header import parse_header
from .settings import Online
from .wire.arrays import ImageArray, image_array_message
from .wire.channel import Channel
from .wire.drain import QUEUE_BYTES, Drain
from .wire.messages import CLOSE, MESSAGE_LIMIT, Foreign, Id, Reader, Text, message, text_message
from .work import Task, recon

if TYPE_CHECKING:
    from ismrmrd.xsd import ismrmrdHeader

logger = logging.getLogger(__name__)

_LINGER_S = 5.0
_STOPPED = "the reconstruction was stopped"


@dataclass(frozen=True)
class Dialect:
    """How a peer is spoken to.

    Parameters
    ----------
    error : Id, optional
        The message that tells of an error, before the CLOSE. None: there is none, and no CLOSE either, so that the next
        program of a pipe does not take what it has for the whole.
    passes_on : bool
        Images that come go to the next of a chain.
    echoes_header : bool
        The header goes before the images.
    """

    error: Id | None
    passes_on: bool = False
    echoes_header: bool = False


CLIENT = Dialect(Id.TEXT)
"""A scanner (FIRE) or a client of Gadgetron: an unknown message would end it, text it shows."""
GADGETRON = Dialect(Id.ERROR, passes_on=True)
"""The core of Gadgetron, which takes an error to its client, and refuses text."""
PIPE = Dialect(None, echoes_header=True)
"""Standard input and output; errors are a line on standard error and the exit status."""
DIALECTS = {"client": CLIENT, "gadgetron": GADGETRON}


@dataclass(frozen=True)
class Limits:
    """What a host may take.

    Parameters
    ----------
    message : int
        Largest message [bytes].
    queue : int
        Largest part of the scan that waits to be worked on [bytes].
    """

    message: int = MESSAGE_LIMIT
    queue: int = QUEUE_BYTES


class Session:
    """A conversation with a host.

    Parameters
    ----------
    channel : Channel
        The connection; `run` closes it.
    dialect : Dialect
        How to speak.
    configure : callable
        Makes the config of what the host says, see `settings.Site.config`.
    task : callable
        What to do, see `work`.
    limits : Limits
        What the host may take.
    opening : tuple of config and header, optional
        Both as bytes, where somebody else has read them already.
    """

    def __init__(
        self,
        channel: Channel,
        dialect: Dialect,
        configure: Callable[..., Online],
        *,
        task: Task = recon,
        limits: Limits | None = None,
        opening: tuple[bytes, bytes] | None = None,
    ):
        self._channel = channel
        self._dialect = dialect
        self._configure = configure
        self._task = task
        self._limits = limits or Limits()
        self._opening = opening
        self._nul = False
        self._ignored: set[Id] = set()

    def run(self) -> int:
        """Serve the host to the end of its scan; return the exit status: 0, or 2 if somebody can mend what was wrong.

        Raises
        ------
        KeyboardInterrupt, SystemExit, Exception
            As they came: an interruption, or a defect of ours. The host has been told.
        """
        try:
            with threads.alone():
                self._converse()
            return 0
        except UserError as error:
            self._fail(str(error))
            return 2
        except OSError as error:
            # all files that we write ourselves answer with UserError: this is the host, which takes nothing more
            logger.error("the host has gone (%s)", error)
            return 2
        except MemoryError as error:
            self._fail(f"memory is not enough ({error or 'no more is told'}); take a larger machine")
            return 2
        except (KeyboardInterrupt, SystemExit):
            self._fail(_STOPPED)
            raise
        except Exception as error:
            self._fail(f"internal error ({type(error).__name__}: {error}); the log has more")
            raise
        finally:
            self._channel.close(linger_s=_LINGER_S)

    def _converse(self) -> None:
        reader = Reader(self._channel, limit=self._limits.message, keep_images=self._dialect.passes_on)
        messages = iter(reader)
        texts, document = self._opened(messages)
        header = parse_header(document)
        reader.max_coils = _receivers(header)
        drain = Drain(messages, self._channel, size_of=_size, limit=self._limits.queue)
        try:
            # parameters may follow the header, before the first item
            first = next(drain, None)
            while isinstance(first, Text) and first.id == Id.TEXT:
                texts += self._said(first)
                first = next(drain, None)
            items = drain if first is None else itertools.chain([first], drain)
            config = self._configure(*texts)
            if self._dialect.echoes_header:
                self._channel.write(text_message(Id.HEADER, document))
                self._channel.flush()
            self._work(header, items, drain, config)
        finally:
            drain.close()

    def _opened(self, messages: Iterator[Any]) -> tuple[list[str], bytes]:
        """Return what came before the header, and the header."""
        if self._opening is not None:
            config, document = self._opening
            return [config.decode("utf-8", "replace")], document
        texts: list[str] = []
        for item in messages:
            if not isinstance(item, Text):
                raise UserError("the stream begins with data, expected the header first")
            self._nul |= item.nul
            if item.id == Id.HEADER:
                return texts, item.content
            texts += self._said(item)
        raise UserError("the stream has no header, expected one before the data")

    def _said(self, text: Text) -> list[str]:
        """Return what a text says of the config: nothing, if it is there to be read by somebody."""
        if text.id == Id.TEXT and not text.content.lstrip().startswith(b"{"):
            logger.info("the host says: %s", _line(str(text))[:1000])
            return []
        return [str(text)]

    def _work(self, header: ismrmrdHeader, items: Iterator[Any], drain: Drain, config: Online) -> None:
        def report(stage: str, done: int, _total: int) -> None:
            if done == 0:
                logger.info("%s", stage)
            drain.check()

        n_images = 0
        for answer in self._task(header, self._ours(items), config, report):
            for item in answer:
                self._channel.write(image_array_message(item) if isinstance(item, ImageArray) else message(item))
            self._channel.flush()
            n_images += len(answer)
        for _ in self._ours(items):
            pass  # to the CLOSE, if the task has not waited for it
        self._channel.write(CLOSE)
        self._channel.flush()
        logger.info("sent %d images or arrays of them", n_images)

    def _ours(self, items: Iterator[Any]) -> Iterator[Any]:
        """Yield what the task is about; send on, or leave out, what it is not."""
        for item in items:
            if isinstance(item, Foreign):
                self._channel.write(item.content)
                if not item.content and item.id not in self._ignored:
                    self._ignored.add(item.id)
                    logger.warning("messages of the kind %s are left out", item.id.name)
            elif isinstance(item, Text):
                if item.id != Id.TEXT:
                    raise UserError(f"a message {item.id.name} came among the data; send it before them")
                self._said(item)
            else:
                yield item

    def _fail(self, text: str) -> None:
        """Log an error, and tell the host if it can still hear."""
        text = _line(text)
        logger.error("%s", text)
        if self._dialect.error is not None:
            content = (
                f"crbsvd: {text}".encode() if self._dialect.error == Id.ERROR else f"ERROR crbsvd: {text}".encode()
            )
            try:
                self._channel.write(text_message(self._dialect.error, content + b"\0" * self._nul) + CLOSE)
                self._channel.flush()
            except OSError as error:
                logger.info("the host could not be told (%s)", error)


def _line(text: str) -> str:
    """Return a text as one line that a terminal can only show: it may hold what a host has sent."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def _receivers(header: ismrmrdHeader) -> int | None:
    system = header.acquisitionSystemInformation
    said = None if system is None else system.receiverChannels
    return said if isinstance(said, int) and said > 0 else None


def _size(item: Any) -> int:
    """Return the bytes of an item; its head and what Python needs besides are small."""
    if isinstance(item, Text | Foreign):
        return len(item.content)
    if isinstance(item, ImageArray):
        return item.nbytes
    return int(item.data.nbytes + item.traj.nbytes) + 1000
