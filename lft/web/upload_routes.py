"""Uploads as their clients ask for them: tus 1.0.0, request by request."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import config
from lft.memory import pages
from lft.server.login import Login
from lft.store.history import Proof
from lft.web.fields import repr_digest
from lft.web.problem import CHECKSUM_MISMATCH, Field, HttpError
from lft.web.request import Caller, Intake, Request
from lft.web.response import Response, http_date, json_response
from lft.web.router import Need, Route, Takes
from lft.web.tus import (
    ALGORITHMS,
    CONTENT,
    EXTENSIONS,
    VERSION,
    Checksum,
    TusError,
    claim_of,
    name_of,
    parse_checksum,
    parse_metadata,
    parse_number,
)
from lft.web.uploads import Sender, Stage, Upload, Uploads

PLACE = "/api/v1/uploads"

_RESUMABLE: Field = ("Tus-Resumable", VERSION)
_VERSIONS: Field = ("Tus-Version", VERSION)


class UploadRoutes:
    """The handlers of uploads. All of it runs on workers."""

    def __init__(self, uploads: Uploads, login: Login, max_file_size: int | None) -> None:
        self._uploads = uploads
        self._login = login
        self._max_file_size = max_file_size

    def routes(self) -> list[Route]:
        """Return their lines of the table."""
        one = PLACE + "/{id}"
        return [
            Route("OPTIONS", PLACE, self.tell_options, Need.NOTHING),
            Route("GET", PLACE, self.list),
            Route("POST", PLACE, self.create, takes=Takes.STREAM),
            Route("OPTIONS", one, self.tell_options, Need.NOTHING),
            Route("HEAD", one, self.tell_offset),
            Route("PATCH", one, self.take, takes=Takes.STREAM),
            Route("DELETE", one, self.terminate),
        ]

    def tell_options(self, _request: Request) -> Response:
        """Say what of tus is spoken here."""
        fields: list[Field] = [
            _RESUMABLE, _VERSIONS, ("Tus-Extension", EXTENSIONS),
            ("Tus-Checksum-Algorithm", ",".join(ALGORITHMS)),
        ]  # fmt: skip
        if self._max_file_size is not None:
            fields.append(("Tus-Max-Size", str(self._max_file_size)))
        return Response(HTTPStatus.NO_CONTENT, fields)

    def list(self, request: Request) -> Response:
        """List the user's uploads that are not finished."""
        request.query()
        told = [
            {
                "id": one.id, "href": f"{PLACE}/{one.id}", "name": one.name, "size": one.size,
                "received": one.received, "state": "arriving" if one.arriving else "resting",
            }
            for one in self._uploads.begun_by(request.caller.user)
        ]  # fmt: skip
        return json_response({"uploads": told})

    def create(self, request: Request) -> Intake:
        """Begin an upload; a body with its first bytes may come along."""
        _check_version(request)
        try:
            size = parse_number(request.field("upload-length"), "Upload-Length")
            metadata = request.field("upload-metadata") or ""
            pairs = parse_metadata(metadata)
            claim = claim_of(pairs, request.field("repr-digest"))
            checksum = parse_checksum(request.field("upload-checksum"))
        except TusError as error:
            raise _bad(error) from None
        if request.head.length:
            _check_content(request)
            _check_length(request, size)
        sender = self._sender(request)
        upload = self._uploads.create(sender, size, name_of(pairs), metadata, claim)
        return Creation(self._uploads, upload, request.head.length, checksum)

    def tell_offset(self, request: Request) -> Response:
        """Say how much is here: what is left of a PATCH that hangs counts no more."""
        upload = self._open(request)
        self._uploads.take_over(upload, request)
        upload.wait_for(Stage.READY, Stage.WHOLE, Stage.DONE)
        with upload.work(request):
            fields = [*_state(upload), ("Upload-Length", str(upload.size))]
            if upload.stage is Stage.READY:
                fields.append(_digest(upload, self._uploads.digest_so_far(upload)))
        if upload.notes.metadata:
            fields.append(("Upload-Metadata", upload.notes.metadata))
        if upload.stage is Stage.DONE:
            fields += _verdict(upload)
        return Response(HTTPStatus.OK, fields)

    def take(self, request: Request) -> Intake:
        """Take bytes from an offset on."""
        upload = self._open(request)
        try:
            offset = parse_number(request.field("upload-offset"), "Upload-Offset")
            checksum = parse_checksum(request.field("upload-checksum"))
            claim = claim_of({}, request.field("repr-digest"))
        except TusError as error:
            raise _bad(error) from None
        _check_content(request)
        intake = Piece(self._uploads, upload, request.head.length, checksum)
        self._uploads.take_over(upload, intake)
        upload.wait_for(Stage.READY, Stage.WHOLE, Stage.DONE)
        if offset != upload.offset:
            reason = f"the offset is {upload.offset}, not {offset}"
            raise HttpError(HTTPStatus.CONFLICT, reason, _state(upload))
        _check_length(request, upload.size - offset)
        self._uploads.claim(upload, claim)
        return intake

    def terminate(self, request: Request) -> Response:
        """Give an upload up; a file that was published stays."""
        upload = self._open(request)
        self._uploads.take_over(upload, request)
        upload.wait_for(Stage.READY, Stage.DONE)
        self._uploads.terminate(upload)
        return Response(HTTPStatus.NO_CONTENT, [_RESUMABLE])

    def _open(self, request: Request) -> Upload:
        _check_version(request)
        return self._uploads.find(self._sender(request), request.parameters["id"])

    def _sender(self, request: Request) -> Sender:
        caller: Caller = request.caller
        bucket = self._login.bucket_of(caller.user, caller.rights.limit)
        return Sender(
            caller.user, caller.credential.priority, caller.rights, bucket, request.door.address
        )


class Piece(Intake):
    """The body of a PATCH, on its way into the file."""

    def __init__(
        self, uploads: Uploads, upload: Upload, length: int, checksum: Checksum | None
    ) -> None:
        self._uploads = uploads
        self._upload = upload
        self._length = length
        self._checksum = checksum
        self._hash: Any = checksum.begin() if checksum else None
        self._memory: memoryview | None = None
        self._begun = False
        self._ended = False

    def room(self) -> memoryview:
        self._upload.wait_for(Stage.READY)
        if self._memory is None:
            self._memory = pages(min(config.RECEIVE_SIZE, self._length))
        return self._memory

    def filled(self, size: int) -> float:
        assert self._memory is not None  # it had room
        view = self._memory[:size]
        with self._upload.work(self):
            self._begin()
            if self._hash:
                self._hash.update(view)
            return self._uploads.write(self._upload, view)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._uploads.begin_writing(self._upload, held=self._checksum is not None)

    def finish(self) -> Response:
        """Answer once the bytes count; with the last ones, once the file has its final name."""
        if not self._ended:
            with self._upload.work(self):
                self._end()
            self._uploads.look_whether_whole(self._upload)
        if self._upload.stage is not Stage.READY:
            self._upload.wait_for(Stage.DONE)
        return self._answer()

    def _end(self) -> None:
        """Let the bytes count, if their checksum is right."""
        self._ended, right = True, True
        if self._checksum and self._begun:
            right = self._hash.digest() == self._checksum.digest
            if right:
                self._uploads.commit(self._upload)
        self._uploads.end_writing(self._upload)
        if not right:
            reason = "the checksum is not that of the bytes that came; send them again"
            raise HttpError(CHECKSUM_MISMATCH, reason, [_RESUMABLE])

    def _answer(self) -> Response:
        fields = _state(self._upload)
        if self._upload.stage is Stage.DONE:
            fields += _verdict(self._upload)
        return Response(HTTPStatus.NO_CONTENT, fields)

    def abandon(self) -> None:
        self._memory = None
        if self._begun and not self._ended:
            self._ended = True
            self._uploads.end_later(self._upload, self)


class Creation(Piece):
    """The body of a POST: the first bytes of a file, or none."""

    def __init__(
        self, uploads: Uploads, upload: Upload, length: int, checksum: Checksum | None
    ) -> None:
        super().__init__(uploads, upload, length, checksum)
        upload.take(self)

    def finish(self) -> Response:
        """Answer once there is room for the file, or it waits in the queue."""
        waits = self._upload.stage is Stage.OPENING and self._upload.position > 0
        if not (waits and not self._length):
            self._upload.wait_for(Stage.READY, Stage.WHOLE, Stage.DONE)
            if self._length or not self._upload.size:
                return super().finish()
        return self._answer()

    def _answer(self) -> Response:
        answer = super()._answer()
        place = ("Location", f"{PLACE}/{self._upload.id}")
        return answer._replace(status=HTTPStatus.CREATED, fields=[place, *answer.fields])


def _state(upload: Upload) -> list[Field]:
    expires = http_date(time.time() + config.KEEP_PARTIAL)
    return [_RESUMABLE, ("Upload-Offset", str(upload.offset)), ("Upload-Expires", expires)]


def _digest(upload: Upload, digest: str) -> Field:
    """Say the digest of the bytes up to the offset."""
    return ("LFT-Digest", f"{upload.algorithm} {digest}")


def _verdict(upload: Upload) -> list[Field]:
    """Say what the file is called, and what shows that it is right.

    Only the client's own digest of the whole file makes it INTEGRITY_OK, as on the wire.
    """
    receipt, proof = upload.receipt, upload.proof
    if receipt is None:
        return []
    word = "INTEGRITY_OK" if proof is Proof.CLIENT_DIGEST else "STORED"
    fields = [
        ("LFT-Verdict", word), ("LFT-Proof", proof.value),
        ("LFT-Saved-As", quote(receipt.saved_as)), _digest(upload, receipt.digest),
    ]  # fmt: skip
    if upload.algorithm == "sha256":
        fields.append(("Repr-Digest", repr_digest(receipt.digest)))
    return fields


def _check_version(request: Request) -> None:
    if request.field("tus-resumable") != VERSION:
        reason = f"Tus-Resumable must be {VERSION}"
        raise HttpError(HTTPStatus.PRECONDITION_FAILED, reason, [_VERSIONS, _RESUMABLE])


def _check_content(request: Request) -> None:
    kind = (request.field("content-type") or "").partition(";")[0].strip().lower()
    if kind != CONTENT:
        reason = f"Content-Type must be {CONTENT}"
        raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, reason, [_RESUMABLE])


def _check_length(request: Request, most: int) -> None:
    """Raise ``HttpError`` for a body that has more than the rest of the file, before it is read."""
    if request.head.length > most:
        reason = f"the file has {most} bytes more, the body {request.head.length}"
        raise HttpError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason, [_RESUMABLE])


def _bad(error: TusError) -> HttpError:
    return HttpError(HTTPStatus.BAD_REQUEST, str(error), [_RESUMABLE])
