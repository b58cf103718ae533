"""What a text of SQL is made of, and that what is sent has as many statements as the user wrote."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from astronomer.lab.snowflake import sqltext
from astronomer.providers.snowflake import statements
from astronomer.providers.snowflake.operators.snowflake import SnowflakeOperator

# Text that must not end a statement where it stands, and pieces to hide it in.
TRAPS = st.text(st.sampled_from('ab;-/* $\n"%'), max_size=8)
STRINGS = TRAPS.map(lambda text: "'" + text + "'")
DOUBLED = TRAPS.map(lambda text: "'" + text + "''" + text + "'")
NAMES = TRAPS.filter(lambda text: '"' not in text).map(lambda text: f'"{text}"')
DOLLARS = TRAPS.filter(lambda text: "$" not in text).map(lambda text: f"$$'{text}\"$$")
LINES = st.text(st.sampled_from("ab;-/*'\" $"), max_size=8).map(lambda text: f"--{text}\n")
BLOCKS = st.text(st.sampled_from("ab;-'\" \n$"), max_size=8).map(lambda text: f"/*{text}*/")
COMMENTS = LINES | BLOCKS
WORDS = st.sampled_from(["a", "from b", ", 1", "\n", "(c)"])
STATEMENTS = st.lists(STRINGS | DOUBLED | NAMES | DOLLARS | COMMENTS | WORDS, max_size=5).map(
    lambda parts: " ".join(["select 1", *parts])
)
NOTHING = st.lists(COMMENTS | st.sampled_from([" ", "\n", ";"]), max_size=3).map("".join)


@st.composite
def texts(draw):
    """How many statements there are, and a text of them with nothing in between, before and after."""
    found = draw(st.lists(STATEMENTS, min_size=1, max_size=4))
    text = draw(NOTHING) + ";".join(draw(NOTHING) + one + draw(NOTHING) for one in found)
    return len(found), text + draw(st.sampled_from(["", ";", " ; "])) + draw(NOTHING)


def operator(sql, **arguments):
    made = SnowflakeOperator(task_id="t", sql=sql, **{"autocommit": True, **arguments})
    made.__dict__["_hook"] = SimpleNamespace(_has_autocommit_session_parameter=lambda: False)
    return made


class Connection:
    """As far as a text without parameters needs one."""

    def cursor(self):
        return nullcontext()


def sent(made):
    session = SimpleNamespace(open=Connection)
    return made._text(session, made._statements(), made._is_block())


def count_of(block):
    """How many statements there are, the empty ones counted, which Snowflake refuses."""
    return 1 + sum(found[1] is not None for found in sqltext._QUOTED_OR_COMMENT_OR_END.finditer(block))


class TestSplit:
    @pytest.mark.parametrize(
        ("sql", "found"),
        [
            ("select 1", ["select 1"]),
            ("select 1;", ["select 1"]),
            (" select 1 ; ; select 2 ;; ", ["select 1", "select 2"]),
            ("select ';'; select $$;$$", ["select ';'", "select $$;$$"]),
            ("-- a; b\nselect 1; -- c", ["-- a; b\nselect 1"]),
            ("select /* ; */ 1; /* nothing; */", ["select /* ; */ 1"]),
            (["select 1;", "", "-- x", "select 2"], ["select 1", "select 2"]),
            (iter(["select 1"]), ["select 1"]),
            ("select 1; -- c\n; /* d; */ ; select 2 /* kept */ ; -- e", ["select 1", "select 2 /* kept */"]),
            ([";select ';' -- kept;", "select 1 -- c\n;"], ["select ';' -- kept", "select 1 -- c"]),
            (r"select 'it\'s; ' ; -- c", [r"select 'it\'s; '"]),
        ],
    )
    def test_of_what_the_stock_hook_splits(self, sql, found):
        assert statements.split(sql, True) == found

    def test_of_what_shall_stay_in_one_piece(self):
        assert statements.split("select 1; select 2;", False) == ["select 1; select 2"]

    @pytest.mark.parametrize(
        "sql", ["", " ;\n; ", "-- x", "/* x; y */", "// x", [], ["", " "], "--", "/**/;"]
    )
    @pytest.mark.parametrize("split", [True, False])
    def test_of_nothing(self, sql, split):
        with pytest.raises(ValueError, match="There is no statement"):
            statements.split(sql, split)

    @given(texts())
    def test_finds_as_many_statements_as_there_are(self, text):
        count, sql = text
        assert len(statements.split(sql, True)) == count


class TestWhatIsSent:
    @given(texts())
    def test_has_as_many_statements_as_it_says(self, text):
        count, sql = text
        block, parameters, said = sent(operator(sql))
        assert parameters is None
        assert len(sqltext.split(block)) == count_of(block) == count
        assert said == (None if count == 1 else count)

    @given(st.lists(STATEMENTS, min_size=2, max_size=4), NOTHING)
    def test_of_a_list_too(self, found, nothing):
        block, _, said = sent(operator([*(one + nothing for one in found), nothing]))
        assert len(sqltext.split(block)) == count_of(block) == said == len(found)

    @given(texts())
    def test_ends_with_a_commit_when_it_needs_one(self, text):
        count, sql = text
        block, _, said = sent(operator(f"insert into t values (1); {sql}", autocommit=False))
        *_, last = sqltext.split(block)
        assert sqltext.bare(last) == "COMMIT"
        assert said == count_of(block) == count + 2

    @pytest.mark.parametrize(
        ("sql", "arguments", "expected"),
        [
            ("insert into t values (1)", {"autocommit": False}, ("insert into t values (1)", None, None)),
            ("call p()", {"autocommit": False}, ("call p();\nCOMMIT", None, 2)),
            ("call p()", {}, ("call p()", None, None)),
            ("begin; call p()", {}, ("begin;\ncall p();\nROLLBACK", None, 3)),
            ("begin; call p()", {"autocommit": False}, ("begin;\ncall p();\nCOMMIT", None, 3)),
            ("select 1; select 2", {"split_statements": False}, ("select 1; select 2", None, 0)),
            (
                "delete from t; select 2",
                {"split_statements": False, "autocommit": False},
                ("delete from t; select 2;\nCOMMIT", None, 0),
            ),
            ("select 1 -- a; b", {}, ("select 1 -- a; b", None, None)),
            ("select 1; select 2", {"autocommit": False}, ("select 1;\nselect 2", None, 2)),
        ],
    )
    def test_examples(self, sql, arguments, expected):
        assert sent(operator(sql, **arguments)) == expected


class TestFirstWord:
    @pytest.mark.parametrize(
        ("statement", "word"),
        [
            ("select 1", "SELECT"),
            ("  ;\n(select 1)", "SELECT"),
            ("-- put file\n/* get */ // x\nPut 'file:///a' @b", "PUT"),
            ("ALTER session set a = 1", "ALTER_SESSION"),
            ("alter table a rename to b", "ALTER"),
            ("$$x$$", "X"),
            ("", ""),
            ("-- only", ""),
        ],
    )
    def test_is_the_keyword(self, statement, word):
        assert statements.first_word(statement) == word

    @given(NOTHING, st.sampled_from(["select 1", "Insert into t", "put a b", "GET a b", "begin", "call p()"]))
    def test_is_not_hidden_by_comments(self, nothing, statement):
        assert statements.first_word(nothing + statement) == statement.split()[0].upper()
        assert statements.is_file_transfer(nothing + statement) is (statement[:3].lower() in ("put", "get"))


class TestNeedsTransaction:
    @pytest.mark.parametrize(
        ("found", "needed"),
        [
            (["select 1"], False),
            (["with a as (select 1) select * from a", "show tables", "use schema s"], False),
            (["insert into t values (1)"], False),
            (["create table t (a int)"], False),
            (["insert into t values (1)", "select 1"], True),
            (["call p()"], True),
            (["execute immediate $$begin end$$"], True),
            (["begin", "insert into t values (1)", "commit"], True),
        ],
    )
    def test_for_what_is_not_atomic_already(self, found, needed):
        assert statements.needs_transaction(found) is needed

    @pytest.mark.parametrize(
        ("found", "begins"), [(["BEGIN"], True), (["start transaction"], True), (["select 'begin'"], False)]
    )
    def test_is_told_apart_from_an_own_one(self, found, begins):
        assert statements.begins_transaction(["select 1", *found]) is begins


class TestBind:
    def test_nothing_leaves_percent_signs_alone(self):
        for nothing in (None, {}, [], ()):
            assert statements.bind(None, None, "select '100%' % 3", nothing) == "select '100%' % 3"
