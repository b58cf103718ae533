"""The Thrift protocol of the SQL connector: sessions and operations on warehouses and on all-purpose clusters.

Arrow results come inline, not as cloud files. The generated messages are those of ``databricks-sql-connector``.
"""

from __future__ import annotations

import asyncio
import uuid
from importlib import import_module
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from astronomer.lab.databricks.errors import ApiError
from astronomer.lab.databricks.sql import SqlEngine
from astronomer.lab.databricks.sql_parameters import Parameter
from astronomer.lab.databricks.sql_sessions import DEFAULT_CATALOG, DEFAULT_SCHEMA, SqlSession, tags_of
from astronomer.lab.databricks.statements import await_end
from astronomer.lab.databricks.thrift_messages import Messages, Operation

if TYPE_CHECKING:
    from astronomer.lab.databricks.credentials import Credentials

__all__ = ["routes"]

PATIENCE = 5.0
"""Seconds that a question for a running statement is held before it is answered, as the real service does."""

_REPLY = 2
_EXCEPTION = 3


def routes(engine: SqlEngine, credentials: Credentials) -> list[Route]:
    """Return the endpoints; they check the credential themselves."""
    server = _Server(engine, credentials)
    paths = (
        "/sql/1.0/warehouses/{compute}",
        "/sql/1.0/endpoints/{compute}",
        "/sql/protocolv1/o/{org}/{compute}",
    )
    return [Route(path, server.answer, methods=["POST"]) for path in paths]


class _Server:
    """Reads a message, calls the method of its name, writes what that returns."""

    def __init__(self, engine: SqlEngine, credentials: Credentials) -> None:
        self._engine = engine
        self._credentials = credentials
        self._operations: dict[bytes, Operation] = {}
        self._service: Any = None
        self._messages = Messages()

    async def answer(self, request: Request) -> Response:
        """Answer one call."""
        user = self._credentials.user(request.headers.get("authorization", ""))
        if self._service is None:
            await asyncio.to_thread(self._load)
        message = self._read(await request.body())
        name, sequence, asked = message
        method = getattr(self, f"_{name}", None)
        if method is None:
            return self._write(name, sequence, None)
        return self._write(name, sequence, await method(asked, user, request.path_params))

    def _load(self) -> None:
        """Import the generated messages: half a second, so not in the loop's thread."""
        try:
            self._messages.types = import_module("databricks.sql.thrift_api.TCLIService.ttypes")
            self._service = import_module("databricks.sql.thrift_api.TCLIService.TCLIService")
        except ImportError:
            message = "The lab needs databricks-sql-connector to speak Thrift."
            raise ApiError(501, "NOT_IMPLEMENTED", message) from None

    def _protocol(self, content: bytes = b"") -> tuple[Any, Any]:
        transport = import_module("thrift.transport.TTransport").TMemoryBuffer(content)
        return transport, import_module("thrift.protocol.TBinaryProtocol").TBinaryProtocol(transport)

    def _read(self, body: bytes) -> tuple[str, int, Any]:
        _, protocol = self._protocol(body)
        name, _, sequence = protocol.readMessageBegin()
        structure = getattr(self._service, f"{name}_args", None)
        if structure is None:
            return name, sequence, None
        arguments = structure()
        arguments.read(protocol)
        return name, sequence, arguments.req

    def _write(self, name: str, sequence: int, answer: Any) -> Response:
        transport, protocol = self._protocol()
        if answer is None:
            thrift = import_module("thrift.Thrift")
            protocol.writeMessageBegin(name, _EXCEPTION, sequence)
            unknown = thrift.TApplicationException
            unknown(unknown.UNKNOWN_METHOD, f"The lab does not know {name}.").write(protocol)
        else:
            protocol.writeMessageBegin(name, _REPLY, sequence)
            getattr(self._service, f"{name}_result")(success=answer).write(protocol)
        protocol.writeMessageEnd()
        return Response(transport.getvalue(), media_type="application/x-thrift")

    # -- sessions ------------------------------------------------------------------------------------------------------

    async def _OpenSession(self, asked: Any, user: str, path: dict[str, str]) -> Any:  # noqa: N802 - the protocol's name
        types = self._messages.types
        cluster = "org" in path
        if not cluster:
            self._engine.warehouses.get(path["compute"])
        space = asked.initialNamespace
        session = SqlSession(user, path["compute"], cluster, kept=True)
        session.catalog = ((space and space.catalogName) or DEFAULT_CATALOG).lower()
        session.schema = ((space and space.schemaName) or DEFAULT_SCHEMA).lower()
        session.settings = {name.lower(): value for name, value in (asked.configuration or {}).items()}
        self._engine.sessions[session.id] = session
        return types.TOpenSessionResp(
            status=self._messages.fine(),
            serverProtocolVersion=types.TProtocolVersion.SPARK_CLI_SERVICE_PROTOCOL_V8,
            sessionHandle=types.TSessionHandle(sessionId=self._messages.identity(uuid.UUID(session.id))),
            configuration={},
            initialNamespace=types.TNamespace(catalogName=session.catalog, schemaName=session.schema),
            canUseMultipleCatalogs=True,
        )

    async def _CloseSession(self, asked: Any, _user: str, _path: dict[str, str]) -> Any:  # noqa: N802
        types = self._messages.types
        session = self._session(asked)
        if session is None:
            return types.TCloseSessionResp(status=self._messages.no_session())
        self._engine.close_session(session)
        return types.TCloseSessionResp(status=self._messages.fine())

    # -- statements ----------------------------------------------------------------------------------------------------

    async def _ExecuteStatement(self, asked: Any, _user: str, _path: dict[str, str]) -> Any:  # noqa: N802
        types = self._messages.types
        session = self._session(asked)
        if session is None:
            return types.TExecuteStatementResp(status=self._messages.no_session())
        overlay = {name.lower(): value for name, value in (asked.confOverlay or {}).items()}
        statement = self._engine.submit(
            asked.statement,
            session=session,
            parameters=[_parameter(one) for one in asked.parameters or []],
            tags=tags_of(overlay.get("query_tags", "")),
            limits=(asked.resultRowLimit or 0, 0),
            client="thrift",
        )
        kind = types.TOperationType.EXECUTE_STATEMENT
        handle = types.TOperationHandle(
            self._messages.identity(uuid.UUID(statement.id)), kind, hasResultSet=True
        )
        operation = self._operations[handle.operationId.guid] = Operation(statement, handle)
        answer = types.TExecuteStatementResp(status=self._messages.fine(), operationHandle=handle)
        if asked.getDirectResults is not None:
            await await_end(self._engine, statement, PATIENCE)
            answer.directResults = self._direct(operation, asked.getDirectResults.maxRows)
        return answer

    def _direct(self, operation: Operation, most: int) -> Any:
        """Return how it stands; the rows and the end of the operation too when they fit."""
        types = self._messages.types
        direct = types.TSparkDirectResults(operationStatus=self._messages.status_of(operation))
        if operation.statement.result is None:
            return direct
        direct.resultSetMetadata = self._messages.metadata(operation)
        direct.resultSet = self._messages.fetch(operation, most)
        if not direct.resultSet.hasMoreRows:
            self._close(operation)
            direct.closeOperation = types.TCloseOperationResp(status=self._messages.fine())
        return direct

    async def _GetOperationStatus(self, asked: Any, _user: str, _path: dict[str, str]) -> Any:  # noqa: N802
        operation = self._operations.get(asked.operationHandle.operationId.guid)
        if operation is None:
            return self._messages.types.TGetOperationStatusResp(status=self._messages.no_operation())
        statement = operation.statement
        statement.polled_at = self._engine.clock.now()
        self._engine.look(statement.id)
        await await_end(self._engine, statement, PATIENCE)
        return self._messages.status_of(operation)

    async def _GetResultSetMetadata(self, asked: Any, _user: str, _path: dict[str, str]) -> Any:  # noqa: N802
        operation = self._operations.get(asked.operationHandle.operationId.guid)
        if operation is None or operation.statement.result is None:
            return self._messages.types.TGetResultSetMetadataResp(status=self._messages.no_operation())
        return self._messages.metadata(operation)

    async def _FetchResults(self, asked: Any, _user: str, _path: dict[str, str]) -> Any:  # noqa: N802
        operation = self._operations.get(asked.operationHandle.operationId.guid)
        if operation is None or operation.statement.result is None:
            return self._messages.types.TFetchResultsResp(status=self._messages.no_operation())
        return self._messages.fetch(operation, asked.maxRows)

    async def _CancelOperation(self, asked: Any, user: str, _path: dict[str, str]) -> Any:  # noqa: N802
        operation = self._operations.get(asked.operationHandle.operationId.guid)
        if operation is not None:
            self._engine.cancel(operation.statement, user)
        return self._messages.types.TCancelOperationResp(
            status=self._messages.fine() if operation else self._messages.no_operation()
        )

    async def _CloseOperation(self, asked: Any, _user: str, _path: dict[str, str]) -> Any:  # noqa: N802
        operation = self._operations.get(asked.operationHandle.operationId.guid)
        if operation is not None:
            self._close(operation)
        return self._messages.types.TCloseOperationResp(
            status=self._messages.fine() if operation else self._messages.no_operation()
        )

    def _close(self, operation: Operation) -> None:
        self._operations.pop(operation.handle.operationId.guid, None)
        self._engine.close_statement(operation.statement)

    def _session(self, asked: Any) -> SqlSession | None:
        return self._engine.sessions.get(str(uuid.UUID(bytes=asked.sessionHandle.sessionId.guid)))


def _parameter(given: Any) -> Parameter:
    value = given.value.stringValue if given.value is not None else None
    return Parameter("" if given.ordinal else given.name or "", value, given.type or "STRING")
