"""Conversations in Postgres: whose they are, and how long they are kept."""

from longrun import ids
from longrun.store.conversations import ConversationItem, Conversations
from longrun.store.database import Database


async def added(conversations: Conversations, principal: str = "") -> str:
    conversation_id = ids.new_conversation_id()
    item = ConversationItem("msg_1", '{"role": "user", "content": "hello"}')
    await conversations.create(conversation_id, principal, "{}", [item])
    return conversation_id


async def test_9_another_principal_finds_nothing(store: Database) -> None:
    conversations = Conversations(store)
    theirs = await added(conversations, "somebody")
    for principal in ("", "somebody else"):
        assert await conversations.get(theirs, principal) is None
        assert await conversations.update(theirs, principal, "{}") is None
        assert not await conversations.add(theirs, principal, [ConversationItem("msg_2", "{}")])
        assert await conversations.item(theirs, principal, "msg_1") is None
        listed = conversations.items(theirs, principal, limit=10, newest_first=True)
        assert await listed == []
        assert not await conversations.delete_item(theirs, principal, "msg_1")
        assert not await conversations.delete(theirs, principal)
    found = await conversations.items(theirs, "somebody", limit=10, newest_first=True)
    assert found is not None
    assert [item.id for item in found] == ["msg_1"]


async def test_what_was_not_used_for_long_goes(store: Database) -> None:
    conversations = Conversations(store)
    unused, used = await added(conversations), await added(conversations)
    schema = store.settings.db_schema
    await store.execute(
        f"UPDATE \"{schema}\".conversations SET used_at = now() - interval '1 hour'"
    )
    await conversations.add(used, "", [ConversationItem("msg_2", "{}")])
    assert await conversations.expire(600) == 1
    assert await conversations.get(unused, "") is None
    assert await conversations.get(used, "") is not None
    left = await store.fetch(f'SELECT conversation_id FROM "{schema}".conversation_items')
    assert {row["conversation_id"] for row in left} == {used}
