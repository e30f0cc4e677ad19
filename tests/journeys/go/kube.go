package main

// The shapes in which kube-apiserver's storage asks.

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	pods       = "/registry/pods/"
	compactKey = "compact_rev_key"
)

// kubePut writes if nobody has written since the revision; 0 stands for "not there".
func (j *journey) kubePut(key, value string, revision int64, lease clientv3.LeaseID) *clientv3.TxnResponse {
	return got(j.client.KV.Txn(j.ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpPut(key, value, clientv3.WithLease(lease))).
		Else(clientv3.OpGet(key)).Commit())
}

func (j *journey) kubeDelete(key string, revision int64) *clientv3.TxnResponse {
	return got(j.client.KV.Txn(j.ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpDelete(key)).
		Else(clientv3.OpGet(key)).Commit())
}

func (j *journey) kubeWrites() {
	health := j.get("/registry/health")
	check(health.Header.Revision > 0, "the health check is answered")
	key := pods + "default/web"
	lease := got(j.client.Grant(j.ctx, 3660))
	created := j.kubePut(key, "v1", 0, lease.ID)
	check(created.Succeeded, "created: %v", created)
	at := created.Header.Revision
	check(created.Responses[0].GetResponsePut().Header.Revision == at, "the put says its revision")
	again := j.kubePut(key, "v1", 0, 0)
	there := again.Responses[0].GetResponseRange()
	check(!again.Succeeded && there.Kvs[0].ModRevision == at, "created twice: the one that is there comes back")
	check(there.Kvs[0].Lease == int64(lease.ID), "with its lease: %v", there.Kvs[0])
	updated := j.kubePut(key, "v2", at, 0)
	check(updated.Succeeded && updated.Header.Revision == at+1, "updated: %v", updated)
	late := j.kubeDelete(key, at)
	check(!late.Succeeded && string(late.Responses[0].GetResponseRange().Kvs[0].Value) == "v2", "too late to delete")
	gone := j.kubeDelete(key, updated.Header.Revision)
	check(gone.Succeeded && gone.Responses[0].GetResponseDeleteRange().Deleted == 1, "deleted")
	check(len(j.get(key, clientv3.WithLimit(1)).Kvs) == 0, "gone")
}

func (j *journey) kubeList() {
	for n := 0; n < 23; n++ {
		check(j.kubePut(fmt.Sprintf("%sns%d/p%02d", pods, n%3, n), fmt.Sprint(n), 0, 0).Succeeded, "created")
	}
	end := clientv3.GetPrefixRangeEnd(pods)
	first := j.get(pods, clientv3.WithRange(end), clientv3.WithLimit(10))
	check(first.Count == 23 && first.More && len(first.Kvs) == 10, "the first page: %d of %d", len(first.Kvs), first.Count)
	pinned := first.Header.Revision
	// What happens meanwhile is not in the list.
	check(j.kubeDelete(pods+"ns2/p20", j.get(pods + "ns2/p20").Kvs[0].ModRevision).Succeeded, "deleted meanwhile")
	check(j.kubePut(pods+"ns2/p99", "99", 0, 0).Succeeded, "created meanwhile")
	seen := first.Kvs
	for page := first; page.More; {
		from := string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		page = j.get(from, clientv3.WithRange(end), clientv3.WithLimit(10), clientv3.WithRev(pinned))
		check(page.Header.Revision >= pinned+2 && page.Count == int64(23-len(seen)), "a page: %d left", page.Count)
		seen = append(seen, page.Kvs...)
	}
	check(len(seen) == 23, "all of them: %d", len(seen))
	for n := 1; n < len(seen); n++ {
		check(string(seen[n-1].Key) < string(seen[n].Key), "in order: %s", seen[n].Key)
	}
	count := j.get(pods, clientv3.WithRange(end), clientv3.WithCountOnly())
	check(count.Count == 23, "counted: %d", count.Count)
	keys := j.get(pods, clientv3.WithRange(end), clientv3.WithKeysOnly(), clientv3.WithRev(pinned))
	check(len(keys.Kvs) == 23 && keys.Kvs[0].ModRevision > 0, "keys: %d", len(keys.Kvs))
}

func (j *journey) kubeWatch() {
	listed := j.get(pods, clientv3.WithPrefix(), clientv3.WithLimit(1)).Header.Revision
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(j.ctx))
	defer cancel()
	events := j.client.Watch(ctx, pods, clientv3.WithPrefix(), clientv3.WithRev(listed+1), clientv3.WithPrevKV(),
		clientv3.WithProgressNotify())
	key := pods + "default/seen"
	created := j.kubePut(key, "1", 0, 0).Header.Revision
	updated := j.kubePut(key, "2", created, 0).Header.Revision
	deleted := j.kubeDelete(key, updated).Header.Revision
	want := []struct {
		revision int64
		before   string
	}{{created, ""}, {updated, "1"}, {deleted, "2"}}
	var seen []*clientv3.Event
	for len(seen) < len(want) {
		response := next(events)
		must(response.Err())
		seen = append(seen, response.Events...)
	}
	for n, event := range seen {
		check(event.Kv.ModRevision == want[n].revision, "event %d: %v", n, event)
		before := ""
		if event.PrevKv != nil {
			before = string(event.PrevKv.Value)
		}
		check(before == want[n].before && (event.IsCreate() || event.PrevKv != nil), "event %d with %q before", n, before)
	}
	must(j.client.RequestProgress(ctx))
	progress := next(events)
	check(progress.IsProgressNotify() && progress.Header.Revision >= deleted, "progress: %v", progress)
}

func (j *journey) kubeCompaction() {
	compact := func(version int64, value string) *clientv3.TxnResponse {
		return got(j.client.KV.Txn(j.ctx).
			If(clientv3.Compare(clientv3.Version(compactKey), "=", version)).
			Then(clientv3.OpPut(compactKey, value)).
			Else(clientv3.OpGet(compactKey)).Commit())
	}
	first := compact(0, "0")
	check(first.Succeeded, "the first to ask is the one who compacts: %v", first)
	other := compact(0, "0")
	kept := other.Responses[0].GetResponseRange()
	check(!other.Succeeded && kept.Kvs[0].Version == 1, "another loses: %v", other)
	mine := compact(1, fmt.Sprint(first.Header.Revision))
	check(mine.Succeeded, "and goes on: %v", mine)
	got(j.client.Compact(j.ctx, first.Header.Revision))
	_, err := j.client.Get(j.ctx, pods, clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision-1))
	check(err == rpctypes.ErrCompacted, "a list that is too old: %v", err)
}
