// Command journey walks through an etcd with Go's clientv3: every call that programs make, and what kube-apiserver makes of them.
//
// It takes the endpoint as its argument, prints a line per step, and ends with 1 at the first answer that is not as it should be. It is to
// pass against etcd and against us alike.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
)

// Longer than etcd waits itself.
const patience = 20 * time.Second

type journey struct {
	client *clientv3.Client
	ctx    context.Context
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: journey ENDPOINT")
		os.Exit(2)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{os.Args[1]},
		DialTimeout: 10 * time.Second,
		// Refusals that are asked for are no news.
		Logger: zap.NewNop(),
	})
	must(err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	j := &journey{client: client, ctx: clientv3.WithRequireLeader(ctx)}
	steps := []struct {
		name string
		run  func()
	}{
		{"put, get, previous values", j.keys},
		{"ranges, pages, sorting, counting", j.ranges},
		{"delete", j.deletes},
		{"transactions", j.transactions},
		{"refusals have their codes", j.refusals},
		{"leases", j.leases},
		{"keep-alive", j.keepAlive},
		{"watch", j.watches},
		{"compaction", j.compaction},
		{"status, members, alarms, hash", j.maintenance},
		{"lock", j.lock},
		{"election", j.election},
		{"software transactional memory", j.stm},
		{"kube-apiserver: optimistic put and delete", j.kubeWrites},
		{"kube-apiserver: list in pages at one revision", j.kubeList},
		{"kube-apiserver: watch with previous values and progress", j.kubeWatch},
		{"kube-apiserver: who compacts", j.kubeCompaction},
	}
	for number, step := range steps {
		step.run()
		fmt.Printf("ok %d %s\n", number+1, step.name)
	}
	fmt.Printf("done %d\n", len(steps))
}

func must(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func check(is bool, format string, words ...any) {
	if !is {
		fail(format, words...)
	}
}

func fail(format string, words ...any) {
	fmt.Printf("not ok "+format+"\n", words...)
	os.Exit(1)
}

// got returns the answer; an error ends the journey.
func got[T any](answer T, err error) T {
	must(err)
	return answer
}

func (j *journey) get(key string, options ...clientv3.OpOption) *clientv3.GetResponse {
	return got(j.client.Get(j.ctx, key, options...))
}

func (j *journey) put(key, value string, options ...clientv3.OpOption) *clientv3.PutResponse {
	return got(j.client.Put(j.ctx, key, value, options...))
}

func (j *journey) keys() {
	first := j.put("go/a", "1")
	check(first.Header.Revision > 1, "a put takes a revision: %v", first.Header)
	second := j.put("go/a", "2", clientv3.WithPrevKV())
	check(string(second.PrevKv.Value) == "1", "the previous value: %v", second.PrevKv)
	now := j.get("go/a").Kvs[0]
	check(string(now.Value) == "2" && now.Version == 2 && now.CreateRevision == first.Header.Revision, "got %v", now)
	old := j.get("go/a", clientv3.WithRev(first.Header.Revision)).Kvs[0]
	check(string(old.Value) == "1", "the value at an old revision: %v", old)
	check(len(j.get("go/none").Kvs) == 0, "no such key")
	check(len(j.get("go/a", clientv3.WithSerializable()).Kvs) == 1, "a serializable read")
	kept := j.put("go/a", "", clientv3.WithIgnoreValue())
	check(kept.Header.Revision == second.Header.Revision+1, "a put that keeps the value is a write")
	check(string(j.get("go/a").Kvs[0].Value) == "2", "the value was kept")
}

func (j *journey) ranges() {
	for n := 0; n < 25; n++ {
		j.put(fmt.Sprintf("go/r/%02d", n), fmt.Sprintf("%02d", 99-n))
	}
	all := j.get("go/r/", clientv3.WithPrefix())
	check(all.Count == 25 && !all.More && string(all.Kvs[24].Key) == "go/r/24", "all: %d", all.Count)
	page := j.get("go/r/", clientv3.WithPrefix(), clientv3.WithLimit(10))
	check(page.Count == 25 && page.More && len(page.Kvs) == 10, "a page: %d of %d", len(page.Kvs), page.Count)
	byValue := j.get("go/r/", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByValue, clientv3.SortAscend))
	check(string(byValue.Kvs[0].Key) == "go/r/24", "sorted by value: %v", byValue.Kvs[0])
	count := j.get("go/r/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	check(count.Count == 25 && len(count.Kvs) == 0, "counted: %v", count.Count)
	keys := j.get("go/r/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	check(len(keys.Kvs) == 25 && len(keys.Kvs[0].Value) == 0 && keys.Kvs[0].ModRevision > 0, "keys only")
	from := j.get("go/r/20", clientv3.WithFromKey(), clientv3.WithLimit(5))
	check(string(from.Kvs[0].Key) == "go/r/20", "from a key on")
	last := j.get("go/r/", clientv3.WithLastRev()...)
	check(len(last.Kvs) == 1 && string(last.Kvs[0].Key) == "go/r/24", "the newest: %v", last.Kvs)
	some := j.get("go/r/", clientv3.WithPrefix(), clientv3.WithMinModRev(all.Kvs[20].ModRevision))
	check(len(some.Kvs) == 5 && some.Count == 25, "from a revision on: %d of %d", len(some.Kvs), some.Count)
}

func (j *journey) deletes() {
	one := got(j.client.Delete(j.ctx, "go/r/00", clientv3.WithPrevKV()))
	check(one.Deleted == 1 && string(one.PrevKvs[0].Value) == "99", "one: %v", one)
	none := got(j.client.Delete(j.ctx, "go/r/00"))
	check(none.Deleted == 0 && none.Header.Revision == one.Header.Revision, "none takes no revision: %v", none)
	rest := got(j.client.Delete(j.ctx, "go/r/", clientv3.WithPrefix()))
	check(rest.Deleted == 24 && rest.Header.Revision == one.Header.Revision+1, "the rest in one revision: %v", rest)
}

func (j *journey) transactions() {
	j.put("go/t", "x")
	yes := got(j.client.Txn(j.ctx).
		If(clientv3.Compare(clientv3.Value("go/t"), "=", "x"), clientv3.Compare(clientv3.Version("go/t/new"), "=", 0)).
		Then(clientv3.OpPut("go/t", "y"), clientv3.OpPut("go/t/new", "z"), clientv3.OpGet("go/t", clientv3.WithPrefix())).
		Else(clientv3.OpGet("go/t")).Commit())
	check(yes.Succeeded && len(yes.Responses) == 3, "then: %v", yes)
	seen := yes.Responses[2].GetResponseRange()
	check(seen.Count == 2 && string(seen.Kvs[0].Value) == "y", "a transaction sees its own writes: %v", seen)
	check(seen.Kvs[0].ModRevision == seen.Kvs[1].ModRevision, "one revision for both")
	no := got(j.client.Txn(j.ctx).If(clientv3.Compare(clientv3.ModRevision("go/t"), "<", 1)).
		Then(clientv3.OpDelete("go/t")).Else(clientv3.OpGet("go/t")).Commit())
	check(!no.Succeeded && string(no.Responses[0].GetResponseRange().Kvs[0].Value) == "y", "else: %v", no)
	nested := clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision("go/t"), ">", 0)},
		[]clientv3.Op{clientv3.OpPut("go/t/in", "1")}, nil)
	deep := got(j.client.Txn(j.ctx).Then(nested, clientv3.OpDelete("go/t/new")).Commit())
	inner := deep.Responses[0].GetResponseTxn()
	check(inner.Succeeded && deep.Responses[1].GetResponseDeleteRange().Deleted == 1, "nested: %v", deep)
	prefix := clientv3.Compare(clientv3.Value("go/t").WithPrefix(), "!=", "no")
	check(got(j.client.Txn(j.ctx).If(prefix).Commit()).Succeeded, "a comparison of a range")
}

func (j *journey) refusals() {
	refused := func(err, want error) { check(errors.Is(err, want), "refused with %v, not %v", want, err) }
	_, err := j.client.Put(j.ctx, "", "v")
	refused(err, rpctypes.ErrEmptyKey)
	_, err = j.client.Put(j.ctx, "go/none", "", clientv3.WithIgnoreValue())
	refused(err, rpctypes.ErrKeyNotFound)
	_, err = j.client.Put(j.ctx, "go/a", "v", clientv3.WithLease(404))
	refused(err, rpctypes.ErrLeaseNotFound)
	_, err = j.client.Get(j.ctx, "go/a", clientv3.WithRev(1<<40))
	refused(err, rpctypes.ErrFutureRev)
	_, err = j.client.Txn(j.ctx).Then(clientv3.OpPut("k", "1"), clientv3.OpPut("k", "2")).Commit()
	refused(err, rpctypes.ErrDuplicateKey)
	_, err = j.client.Revoke(j.ctx, 404)
	refused(err, rpctypes.ErrLeaseNotFound)
	_, err = j.client.MoveLeader(j.ctx, 1)
	refused(err, rpctypes.ErrBadLeaderTransferee)
}

func (j *journey) leases() {
	lease := got(j.client.Grant(j.ctx, 600))
	check(lease.TTL == 600 && lease.ID > 0, "granted: %v", lease)
	j.put("go/l/1", "v", clientv3.WithLease(lease.ID))
	j.put("go/l/2", "v", clientv3.WithLease(lease.ID))
	left := got(j.client.TimeToLive(j.ctx, lease.ID, clientv3.WithAttachedKeys()))
	check(left.GrantedTTL == 600 && left.TTL > 500 && len(left.Keys) == 2, "left: %v", left)
	found := false
	for _, one := range got(j.client.Leases(j.ctx)).Leases {
		found = found || one.ID == lease.ID
	}
	check(found, "it is listed")
	got(j.client.Revoke(j.ctx, lease.ID))
	check(j.get("go/l/", clientv3.WithPrefix()).Count == 0, "its keys went with it")
	gone := got(j.client.TimeToLive(j.ctx, lease.ID))
	check(gone.TTL == -1, "what is gone has -1 left: %v", gone)
	_, err := j.client.KeepAliveOnce(j.ctx, lease.ID)
	check(errors.Is(err, rpctypes.ErrLeaseNotFound), "cannot be renewed: %v", err)

	short := got(j.client.Grant(j.ctx, 1))
	j.put("go/l/short", "v", clientv3.WithLease(short.ID))
	events := j.client.Watch(j.ctx, "go/l/short")
	event := next(events).Events[0]
	check(event.Type == clientv3.EventTypeDelete, "it expires by itself: %v", event)
}

func (j *journey) keepAlive() {
	lease := got(j.client.Grant(j.ctx, 3))
	renewals := got(j.client.KeepAlive(j.ctx, lease.ID))
	for n := 0; n < 3; n++ {
		renewal := next(renewals)
		check(renewal != nil && renewal.TTL == 3, "renewed: %v", renewal)
	}
	got(j.client.Revoke(j.ctx, lease.ID))
	for range renewals {
		// What was under way; then the channel closes.
	}
}

// next waits for one thing from a channel.
func next[T any](from <-chan T) T {
	select {
	case thing, open := <-from:
		check(open, "the channel is closed")
		return thing
	case <-time.After(patience):
		fail("nothing came for %v", patience)
		panic("unreachable")
	}
}

func (j *journey) watches() {
	ctx, cancel := context.WithCancel(j.ctx)
	first := j.put("go/w/1", "old").Header.Revision
	past := j.client.Watch(ctx, "go/w/", clientv3.WithPrefix(), clientv3.WithRev(first), clientv3.WithPrevKV())
	deletes := j.client.Watch(ctx, "go/w/", clientv3.WithPrefix(), clientv3.WithFilterPut(), clientv3.WithCreatedNotify())
	check(next(deletes).Created, "created")
	check(string(next(past).Events[0].Kv.Value) == "old", "the past")
	j.put("go/w/1", "new")
	event := next(past).Events[0]
	check(string(event.PrevKv.Value) == "old" && event.IsModify(), "with the value before: %v", event)
	got(j.client.Txn(j.ctx).Then(clientv3.OpPut("go/w/2", "a"), clientv3.OpDelete("go/w/1")).Commit())
	both := next(past).Events
	check(len(both) == 2 && both[0].IsCreate() && both[1].Type == clientv3.EventTypeDelete, "a transaction at once: %v", both)
	filtered := next(deletes).Events
	check(len(filtered) == 1 && string(filtered[0].Kv.Key) == "go/w/1", "deletes only: %v", filtered)
	check(string(both[1].PrevKv.Value) == "new" && both[1].Kv.ModRevision == both[0].Kv.ModRevision, "as one: %v", both)
	cancel()
	for range past {
		// Until it is closed.
	}
}

func (j *journey) compaction() {
	old := j.put("go/c", "1").Header.Revision
	now := j.put("go/c", "2").Header.Revision
	got(j.client.Compact(j.ctx, now, clientv3.WithCompactPhysical()))
	_, err := j.client.Get(j.ctx, "go/c", clientv3.WithRev(old))
	check(errors.Is(err, rpctypes.ErrCompacted), "compacted: %v", err)
	check(string(j.get("go/c", clientv3.WithRev(now)).Kvs[0].Value) == "2", "readable at the compaction")
	ended := next(j.client.Watch(j.ctx, "go/c", clientv3.WithRev(old)))
	check(ended.CompactRevision == now && errors.Is(ended.Err(), rpctypes.ErrCompacted), "a watch of the past: %v", ended)
	_, err = j.client.Compact(j.ctx, old)
	check(errors.Is(err, rpctypes.ErrCompacted), "again: %v", err)
	_, err = j.client.Compact(j.ctx, now+1000)
	check(errors.Is(err, rpctypes.ErrFutureRev), "too far: %v", err)
}

func (j *journey) maintenance() {
	endpoint := j.client.Endpoints()[0]
	status := got(j.client.Status(j.ctx, endpoint))
	check(status.Leader == status.Header.MemberId && status.DbSize > 0 && status.RaftTerm > 0, "status: %v", status)
	members := got(j.client.MemberList(j.ctx)).Members
	check(len(members) == 1 && members[0].ID == status.Leader && len(members[0].ClientURLs) == 1, "members: %v", members)
	check(len(got(j.client.AlarmList(j.ctx)).Alarms) == 0, "no alarms")
	hash := got(j.client.HashKV(j.ctx, endpoint, 0))
	check(hash.Hash != 0 && hash.Header.Revision == j.get("go/none").Header.Revision, "hash: %v", hash)
}

func (j *journey) session(ttl int) *concurrency.Session {
	return got(concurrency.NewSession(j.client, concurrency.WithContext(j.ctx), concurrency.WithTTL(ttl)))
}

func (j *journey) lock() {
	one, two := j.session(30), j.session(30)
	first, second := concurrency.NewMutex(one, "go/lock"), concurrency.NewMutex(two, "go/lock")
	must(first.Lock(j.ctx))
	check(errors.Is(second.TryLock(j.ctx), concurrency.ErrLocked), "held by the first")
	taken := make(chan error, 1)
	go func() { taken <- second.Lock(j.ctx) }()
	must(first.Unlock(j.ctx))
	must(next(taken))
	owner := got(j.client.Txn(j.ctx).If(second.IsOwner()).Commit())
	check(owner.Succeeded, "the second owns it")
	must(two.Close())
	check(j.get("go/lock", clientv3.WithPrefix()).Count == 0, "a lock ends with its session")
	must(one.Close())
}

func (j *journey) election() {
	session := j.session(30)
	defer session.Close()
	election := concurrency.NewElection(session, "go/election")
	_, err := election.Leader(j.ctx)
	check(errors.Is(err, concurrency.ErrElectionNoLeader), "nobody leads: %v", err)
	must(election.Campaign(j.ctx, "me"))
	check(string(got(election.Leader(j.ctx)).Kvs[0].Value) == "me", "I lead")
	ctx, cancel := context.WithCancel(j.ctx)
	defer cancel()
	observed := election.Observe(ctx)
	check(string(next(observed).Kvs[0].Value) == "me", "observed")
	must(election.Proclaim(j.ctx, "still me"))
	check(string(next(observed).Kvs[0].Value) == "still me", "observed again")
	must(election.Resign(j.ctx))
}

func (j *journey) stm() {
	j.put("go/stm/a", "5")
	j.put("go/stm/b", "0")
	_, err := concurrency.NewSTM(j.client, func(stm concurrency.STM) error {
		value := stm.Get("go/stm/a")
		stm.Put("go/stm/a", "0")
		stm.Put("go/stm/b", value)
		return nil
	}, concurrency.WithAbortContext(j.ctx))
	must(err)
	check(string(j.get("go/stm/b").Kvs[0].Value) == "5", "moved")
}
