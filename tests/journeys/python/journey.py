"""Walks through an etcd with Python's etcd3: every call that programs make, and what comes back.

Takes HOST:PORT, prints a line per step, and ends with 1 at the first answer that is not as it should be. It is to pass against etcd and
against us alike.
"""

import os
import queue
import sys
import threading
import time

# The library's messages are older than the C parser of newer protobufs.
os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")

import etcd3  # noqa: E402
import grpc  # noqa: E402
from etcd3 import etcdrpc  # noqa: E402

# Longer than etcd waits itself.
PATIENCE = 20


def check(holds, what, *seen):
    if not holds:
        raise AssertionError(f"{what}: {seen}")


def until(what, condition):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


def revision(client):
    return client.get_response("py/none").header.revision


def keys(client):
    first = client.put("py/a", "1")
    second = client.put("py/a", "2", prev_kv=True)
    check(second.prev_kv.value == b"1", "the previous value", second)
    check(second.header.revision == first.header.revision + 1, "each put takes a revision")
    value, meta = client.get("py/a")
    check(value == b"2" and meta.version == 2, "the value", value, meta)
    check(meta.create_revision == first.header.revision, "when it was made", meta)
    check(client.get("py/none") == (None, None), "no such key")
    check(client.get("py/a", serializable=True)[0] == b"2", "a serializable read")


def ranges(client):
    for number in range(15):
        client.put(f"py/r/{number:02}", f"{99 - number}")
    pairs = list(client.get_prefix("py/r/"))
    check(len(pairs) == 15 and pairs[0][1].key == b"py/r/00", "by prefix", len(pairs))
    byvalue = [meta.key for _, meta in client.get_prefix("py/r/", sort_order="ascend", sort_target="value")]
    check(byvalue[0] == b"py/r/14", "sorted by value", byvalue)
    check(len(list(client.get_range("py/r/05", "py/r/10"))) == 5, "between two keys")
    names = [meta.key for _, meta in client.get_prefix("py/r/", keys_only=True)]
    check(len(names) == 15, "keys only", names)
    check(all(value == b"" for value, _ in client.get_prefix("py/r/", keys_only=True)), "without values")


def deletes(client):
    check(client.delete("py/r/00"), "one")
    check(not client.delete("py/r/00"), "none")
    check(client.delete_prefix("py/r/").deleted == 14, "the rest")


def transactions(client):
    client.put("py/t", "x")
    done, answers = client.transaction(
        compare=[client.transactions.value("py/t") == "x", client.transactions.version("py/t/new") == 0],
        success=[
            client.transactions.put("py/t", "y"),
            client.transactions.put("py/t/new", "z"),
            client.transactions.get("py/t"),
        ],
        failure=[client.transactions.delete("py/t")],
    )
    check(done and answers[2][0][0] == b"y", "then", answers)
    check(client.get("py/t/new")[1].mod_revision == client.get("py/t")[1].mod_revision, "one revision for both")
    done, answers = client.transaction(
        compare=[client.transactions.mod("py/t") < 1],
        success=[client.transactions.delete("py/t")],
        failure=[client.transactions.get("py/t")],
    )
    check(not done and answers[0][0][0] == b"y", "else", answers)
    check(client.replace("py/t", "y", "w") and not client.replace("py/t", "y", "v"), "replace once")
    check(client.put_if_not_exists("py/t/one", "1") and not client.put_if_not_exists("py/t/one", "2"), "put once")


def refusals(client):
    def refused(code, text, call):
        try:
            call()
        except grpc.RpcError as refusal:
            check(refusal.code() == code and refusal.details() == text, "refused otherwise", refusal)
        else:
            raise AssertionError(f"not refused: {text}")

    status = grpc.StatusCode
    refused(
        status.INVALID_ARGUMENT, "etcdserver: key is not provided", lambda: client.kvstub.Put(etcdrpc.PutRequest(value=b"v"))
    )
    lost = etcdrpc.PutRequest(key=b"py/a", lease=404)
    refused(status.NOT_FOUND, "etcdserver: requested lease not found", lambda: client.kvstub.Put(lost))
    future = etcdrpc.RangeRequest(key=b"py/a", revision=1 << 40)
    refused(
        status.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision is a future revision",
        lambda: client.kvstub.Range(future),
    )
    twice = [client.transactions.put("k", "1"), client.transactions.put("k", "2")]
    refused(
        status.INVALID_ARGUMENT,
        "etcdserver: duplicate key given in txn request",
        lambda: client.transaction(compare=[], success=twice, failure=[]),
    )


def leases(client):
    lease = client.lease(600)
    check(lease.granted_ttl == 600 and lease.remaining_ttl > 500, "granted", lease.granted_ttl)
    client.put("py/l/1", "v", lease)
    client.put("py/l/2", "v", lease)
    check(sorted(lease.keys) == [b"py/l/1", b"py/l/2"], "its keys", lease.keys)
    renewals = list(client.refresh_lease(lease.id))
    check(renewals[0].TTL == 600 and renewals[0].ID == lease.id, "renewed", renewals)
    lease.revoke()
    check(not list(client.get_prefix("py/l/")), "its keys went with it")
    check(client.get_lease_info(lease.id).TTL == -1, "what is gone has -1 left")
    check(list(client.refresh_lease(lease.id))[0].TTL == 0, "what is gone is renewed to 0")
    short = client.lease(1)
    client.put("py/l/short", "v", short)
    until("a lease that nobody renews expires", lambda: client.get("py/l/short") == (None, None))


def watches(client):
    first = client.put("py/w/1", "old").header.revision
    events, cancel = client.watch_prefix("py/w/", start_revision=first, prev_kv=True)
    seen = queue.Queue()
    reader = threading.Thread(target=lambda: [seen.put(event) for event in events])
    reader.start()
    check(seen.get(timeout=PATIENCE).value == b"old", "the past")
    client.put("py/w/1", "new")
    event = seen.get(timeout=PATIENCE)
    check(isinstance(event, etcd3.events.PutEvent) and event.prev_value == b"old", "with the value before", event)
    client.delete("py/w/1")
    event = seen.get(timeout=PATIENCE)
    check(isinstance(event, etcd3.events.DeleteEvent) and event.prev_value == b"new", "a delete", event)
    cancel()
    reader.join(PATIENCE)
    check(not reader.is_alive(), "a cancelled watch ends")

    once = threading.Timer(0.2, lambda: client.put("py/w/2", "x"))
    once.start()
    check(client.watch_once("py/w/2", timeout=PATIENCE).value == b"x", "watched once")


def compaction(client):
    old = client.put("py/c", "1").header.revision
    now = client.put("py/c", "2").header.revision
    client.compact(now, physical=True)
    try:
        client.kvstub.Range(etcdrpc.RangeRequest(key=b"py/c", revision=old))
    except grpc.RpcError as refusal:
        check(refusal.details() == "etcdserver: mvcc: required revision has been compacted", "compacted", refusal)
    else:
        raise AssertionError("a read below the compaction was answered")
    events, cancel = client.watch("py/c", start_revision=old)
    try:
        next(events)
    except etcd3.exceptions.RevisionCompactedError as ended:
        check(ended.compacted_revision == now, "where it was compacted", ended.compacted_revision)
    else:
        raise AssertionError("a watch of the compacted past went on")
    finally:
        cancel()


def maintenance(client):
    status = client.status()
    check(status.leader is not None and status.db_size > 0 and status.raft_term > 0, "status", status)
    members = list(client.members)
    check(len(members) == 1 and members[0].id == status.leader.id, "members", members)
    check(list(client.list_alarms()) == [], "no alarms")


def locks(client):
    first = client.lock("py", ttl=30)
    second = client.lock("py", ttl=30)
    check(first.acquire(timeout=PATIENCE) and first.is_acquired(), "free")
    check(not second.acquire(timeout=0.5), "held by another")
    check(first.release(), "given up")
    with client.lock("py", ttl=30) as third:
        check(third.is_acquired(), "free again")


STEPS = [keys, ranges, deletes, transactions, refusals, leases, watches, compaction, maintenance, locks]


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    client = etcd3.client(host=host, port=int(port), timeout=PATIENCE)
    for number, step in enumerate(STEPS, 1):
        try:
            step(client)
        except Exception as failure:  # noqa: BLE001
            print(f"not ok {step.__name__}: {failure!r}", flush=True)
            # Threads of the library may still wait for a stream.
            os._exit(1)
        print(f"ok {number} {step.__name__}", flush=True)
    print(f"done {len(STEPS)}", flush=True)
    os._exit(0)


main()
