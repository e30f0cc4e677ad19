// Walks through an etcd with npm's etcd3: every call that programs make, and what comes back.
//
// Takes HOST:PORT, prints a line per step, and ends with 1 at the first answer that is not as it should be. It is to pass against etcd and
// against us alike. The library is found where NODE_PATH says.
'use strict';

const assert = require('node:assert');
const { once } = require('node:events');
const { Etcd3, EtcdLeaseInvalidError, EtcdLockFailedError } = require('etcd3');

// Longer than etcd waits itself.
const PATIENCE = 20_000;

const client = new Etcd3({ hosts: `http://${process.argv[2]}` });

/** The next event of a kind, or a failure when none comes. */
async function next(emitter, kind) {
  const [value] = await once(emitter, kind, { signal: AbortSignal.timeout(PATIENCE) });
  return value;
}

async function until(what, condition) {
  const deadline = Date.now() + PATIENCE;
  while (!(await condition())) {
    assert(Date.now() < deadline, `not within ${PATIENCE} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const get = async (key) => (await client.get(key).exec()).kvs[0];

async function keys() {
  const first = await client.put('js/a').value('1').exec();
  const second = await client.put('js/a').value('2').getPrevious();
  assert.equal(second.value.toString(), '1');
  const now = await get('js/a');
  assert.equal(now.value.toString(), '2');
  assert.equal(now.version, '2');
  assert.equal(now.create_revision, first.header.revision);
  assert.equal(await client.get('js/none').string(), null);
  assert.equal(await client.get('js/a').serializable(true).string(), '2');
  assert.equal(await client.get('js/a').revision(first.header.revision).string(), '1');
  await client.put('js/a').touch();
  assert.equal((await get('js/a')).version, '3');
}

async function ranges() {
  for (let number = 10; number < 25; number++) {
    await client.put(`js/r/${number}`).value(`${99 - number}`).exec();
  }
  const all = await client.getAll().prefix('js/r/').strings();
  assert.equal(Object.keys(all).length, 15);
  assert.equal(all['js/r/24'], '75');
  const page = await client.getAll().prefix('js/r/').limit(4).exec();
  assert.deepEqual([page.count, page.more, page.kvs.length], ['15', true, 4]);
  assert.equal(await client.getAll().prefix('js/r/').count(), 15);
  const sorted = await client.getAll().prefix('js/r/').sort('Value', 'Ascend').keys();
  assert.equal(sorted[0], 'js/r/24');
  assert.equal((await client.getAll().inRange({ start: 'js/r/12', end: 'js/r/15' }).keys()).length, 3);
}

async function deletes() {
  const [gone] = await client.delete().key('js/r/10').getPrevious();
  assert.equal(gone.value.toString(), '89');
  assert.equal((await client.delete().key('js/r/10').exec()).deleted, '0');
  assert.equal((await client.delete().prefix('js/r/').exec()).deleted, '14');
}

async function transactions() {
  await client.put('js/t').value('x').exec();
  const yes = await client
    .if('js/t', 'Value', '==', 'x')
    .and('js/t/new', 'Version', '==', 0)
    .then(client.put('js/t').value('y'), client.put('js/t/new').value('z'), client.get('js/t'))
    .else(client.delete().key('js/t'))
    .commit();
  assert(yes.succeeded);
  assert.equal(yes.responses[2].response_range.kvs[0].value.toString(), 'y');
  const no = await client.if('js/t', 'Mod', '<', 1).then(client.delete().all()).else(client.get('js/t')).commit();
  assert(!no.succeeded);
  assert.equal(no.responses[0].response_range.kvs[0].value.toString(), 'y');
  await client.stm().transact(async (stm) => {
    const value = await stm.get('js/t').string();
    await stm.put('js/t').value(`${value}${value}`);
  });
  assert.equal(await client.get('js/t').string(), 'yy');
}

async function refusals() {
  const refused = (call, text) => assert.rejects(call, (refusal) => refusal.message.includes(text));
  await refused(client.put('').value('v').exec(), 'etcdserver: key is not provided');
  await refused(client.put('js/a').value('v').lease('404').exec(), 'etcdserver: requested lease not found');
  await refused(client.get('js/a').revision(2 ** 40).exec(), 'etcdserver: mvcc: required revision is a future revision');
  const twice = client.if('js/a', 'Version', '>', 0).then(client.put('js/k').value('1'), client.put('js/k').value('2'));
  await refused(twice.commit(), 'etcdserver: duplicate key given in txn request');
}

async function leases() {
  const lease = client.lease(600, { autoKeepAlive: false });
  const id = await lease.grant();
  await lease.put('js/l/1').value('v').exec();
  await lease.put('js/l/2').value('v').exec();
  const left = await client.leaseClient.leaseTimeToLive({ ID: id, keys: true });
  assert.equal(left.grantedTTL, '600');
  assert.equal(left.keys.length, 2);
  assert.equal((await lease.keepaliveOnce()).TTL, '600');
  await lease.revoke();
  assert.equal(await client.getAll().prefix('js/l/').count(), 0);
  assert.equal((await client.leaseClient.leaseTimeToLive({ ID: id, keys: false })).TTL, '-1');

  const kept = client.lease(2);
  await kept.put('js/l/kept').value('v').exec();
  await next(kept, 'keepaliveSucceeded');
  await next(kept, 'keepaliveSucceeded');
  await kept.revoke();

  const short = client.lease(1, { autoKeepAlive: false });
  await short.put('js/l/short').value('v').exec();
  await until('a lease that nobody renews expires', async () => !(await client.get('js/l/short').exists()));
  await assert.rejects(short.keepaliveOnce(), EtcdLeaseInvalidError);
}

async function watches() {
  const first = (await client.put('js/w/1').value('old').exec()).header.revision;
  const watcher = await client.watch().prefix('js/w/').startRevision(first).withPreviousKV().watcher();
  assert.equal((await next(watcher, 'put')).value.toString(), 'old');
  const [response] = await Promise.all([next(watcher, 'data'), client.put('js/w/1').value('new').exec()]);
  assert.equal(response.events[0].prev_kv.value.toString(), 'old');
  const [deleted] = await Promise.all([next(watcher, 'delete'), client.delete().key('js/w/1').exec()]);
  assert.equal(deleted.key.toString(), 'js/w/1');
  await watcher.cancel();

  const deletes = await client.watch().prefix('js/w/').only('delete').create();
  const told = next(deletes, 'data');
  await client.put('js/w/2').value('v').exec();
  await client.delete().key('js/w/2').exec();
  assert.equal((await told).events[0].type, 'Delete');
  await deletes.cancel();
}

async function compaction() {
  const old = (await client.put('js/c').value('1').exec()).header.revision;
  const now = (await client.put('js/c').value('2').exec()).header.revision;
  await client.kv.compact({ revision: now, physical: true });
  await assert.rejects(client.get('js/c').revision(old).exec(), /required revision has been compacted/);
  assert.equal(await client.get('js/c').revision(now).string(), '2');
}

async function maintenance() {
  const status = await client.maintenance.status();
  assert.equal(status.leader, status.header.member_id);
  assert(Number(status.dbSize) > 0);
  const { members } = await client.cluster.memberList({});
  assert.equal(members.length, 1);
  assert.equal(members[0].ID, status.leader);
  const { alarms } = await client.maintenance.alarm({ action: 'Get', memberID: 0, alarm: 'None' });
  assert.equal(alarms.length, 0);
}

async function locks() {
  const first = client.lock('js/lock').ttl(30);
  await first.acquire();
  await assert.rejects(client.lock('js/lock').ttl(30).acquire(), EtcdLockFailedError);
  await first.release();
  assert.equal(await client.lock('js/lock').ttl(30).do(() => 'done'), 'done');
}

async function elections() {
  const election = client.election('js', 30);
  const one = election.campaign('one');
  await one.wait();
  assert.equal(await election.leader(), 'one');
  const observer = await election.observe();
  const two = election.campaign('two');
  // In line before the first steps down.
  await two.getCampaignKey();
  await one.proclaim('one again');
  await until('the new value is observed', () => observer.leader() === 'one again');
  await one.resign();
  await two.wait();
  assert.equal(await election.leader(), 'two');
  await until('the new leader is observed', () => observer.leader() === 'two');
  await observer.cancel();
  await two.resign();
}

const STEPS = [
  keys, ranges, deletes, transactions, refusals, leases, watches, compaction, maintenance, locks, elections,
];

async function main() {
  for (const [number, step] of STEPS.entries()) {
    try {
      await step();
    } catch (failure) {
      console.log(`not ok ${step.name}: ${failure.stack}`);
      process.exit(1);
    }
    console.log(`ok ${number + 1} ${step.name}`);
  }
  console.log(`done ${STEPS.length}`);
  client.close();
  process.exit(0);
}

main();
