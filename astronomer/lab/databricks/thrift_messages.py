"""The messages that answer the SQL connector's Thrift calls."""

from __future__ import annotations

import secrets
import uuid
from dataclasses import dataclass
from typing import Any

from astronomer.lab.databricks.columns import Column, Result
from astronomer.lab.databricks.sql_statement import Statement

__all__ = ["Messages", "Operation"]

_THRIFT_TYPES = {
    "BYTE": "TINYINT",
    "SHORT": "SMALLINT",
    "LONG": "BIGINT",
    "INTERVAL": "INTERVAL_DAY_TIME",
}
_STATES = {
    "PENDING": "PENDING_STATE",
    "RUNNING": "RUNNING_STATE",
    "SUCCEEDED": "FINISHED_STATE",
    "FAILED": "ERROR_STATE",
    "CANCELED": "CANCELED_STATE",
    "CLOSED": "CLOSED_STATE",
}


@dataclass
class Operation:
    """A statement and how far its rows were fetched."""

    statement: Statement
    handle: Any
    fetched: int = 0


class Messages:
    """Builds messages of ``types``, the module of the generated classes."""

    types: Any = None

    def status_of(self, operation: Operation) -> Any:
        """Return how a statement stands."""
        types, statement = self.types, operation.statement
        answer = types.TGetOperationStatusResp(
            status=self.fine(),
            operationState=getattr(types.TOperationState, _STATES[statement.state]),
            hasResultSet=True,
        )
        if statement.result is not None:
            answer.numModifiedRows = statement.result.affected
        if (error := statement.error) is not None:
            answer.displayMessage = error.message
            answer.errorMessage = (
                f"org.apache.hive.service.cli.HiveSQLException: Error running query: {error.message}"
            )
            answer.sqlState = error.sql_state
        return answer

    def metadata(self, operation: Operation) -> Any:
        """Return the columns of a result."""
        types, result = self.types, _result(operation)
        columns = [self._column(column, position) for position, column in enumerate(result.columns)]
        return types.TGetResultSetMetadataResp(
            status=self.fine(),
            schema=types.TTableSchema(columns=columns),
            resultFormat=types.TSparkRowSetType.ARROW_BASED_SET,
            lz4Compressed=False,
            arrowSchema=result.table.schema.serialize().to_pybytes(),
            isStagingOperation=False,
        )

    def _column(self, column: Column, position: int) -> Any:
        types = self.types
        name = _THRIFT_TYPES.get(column.type_name, column.type_name)
        entry = types.TPrimitiveTypeEntry(type=getattr(types.TTypeId, f"{name}_TYPE"))
        if column.precision is not None:
            digits = {"precision": column.precision, "scale": column.scale}
            values = {key: types.TTypeQualifierValue(i32Value=value) for key, value in digits.items()}
            entry.typeQualifiers = types.TTypeQualifiers(qualifiers=values)
        described = types.TTypeDesc(types=[types.TTypeEntry(primitiveEntry=entry)])
        return types.TColumnDesc(columnName=column.name, typeDesc=described, position=position + 1)

    def fetch(self, operation: Operation, most: int) -> Any:
        """Return the next rows."""
        types, table, start = self.types, _result(operation).table, operation.fetched
        part = table.slice(start, most)
        operation.fetched += part.num_rows
        batches = [
            types.TSparkArrowBatch(batch=batch.serialize().to_pybytes(), rowCount=batch.num_rows)
            for batch in part.combine_chunks().to_batches()
        ]
        return types.TFetchResultsResp(
            status=self.fine(),
            hasMoreRows=operation.fetched < table.num_rows,
            results=types.TRowSet(startRowOffset=start, rows=[], arrowBatches=batches),
            resultSetMetadata=self.metadata(operation),
        )

    def identity(self, identity: uuid.UUID) -> Any:
        """Return what a handle is made of."""
        return self.types.THandleIdentifier(guid=identity.bytes, secret=secrets.token_bytes(16))

    def fine(self) -> Any:
        """Return that a call was accepted."""
        return self.types.TStatus(statusCode=self.types.TStatusCode.SUCCESS_STATUS)

    def no_session(self) -> Any:
        """Return that a call named no open session."""
        code = self.types.TStatusCode.INVALID_HANDLE_STATUS
        return self.types.TStatus(statusCode=code, errorMessage="Invalid SessionHandle")

    def no_operation(self) -> Any:
        """Return that a call named no statement, or one without rows."""
        code = self.types.TStatusCode.INVALID_HANDLE_STATUS
        return self.types.TStatus(statusCode=code, errorMessage="Invalid OperationHandle")


def _result(operation: Operation) -> Result:
    result = operation.statement.result
    assert result is not None  # noqa: S101 - every caller has looked
    return result
