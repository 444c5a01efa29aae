// What users of npm's etcd3 do, against HOST:PORT; prints PASS. CLIENT_CA, CLIENT_CERT and CLIENT_KEY are files for TLS,
// CLIENT_USER and CLIENT_PASSWORD say who asks.
const assert = require("node:assert");
const { once } = require("node:events");
const { readFileSync } = require("node:fs");
const { Etcd3, Range } = require("etcd3");

const { CLIENT_CA, CLIENT_CERT, CLIENT_KEY, CLIENT_USER, CLIENT_PASSWORD } = process.env;

function connect(auth) {
  const scheme = CLIENT_CA ? "https" : "http";
  const credentials = CLIENT_CA && {
    rootCertificate: readFileSync(CLIENT_CA),
    certChain: readFileSync(CLIENT_CERT),
    privateKey: readFileSync(CLIENT_KEY),
  };
  return new Etcd3({ hosts: `${scheme}://${process.argv[2]}`, credentials, auth });
}

async function main() {
  const client = connect(CLIENT_USER && { username: CLIENT_USER, password: CLIENT_PASSWORD });

  await client.put("/js/a").value("1");
  await client.put("/js/b").value("2");
  assert.strictEqual(await client.get("/js/a").string(), "1");
  assert.strictEqual(await client.get("/js/none").string(), null);
  assert.deepStrictEqual(await client.getAll().prefix("/js/").strings(), { "/js/a": "1", "/js/b": "2" });
  assert.deepStrictEqual(await client.getAll().prefix("/js/").sort("Key", "Descend").keys(), ["/js/b", "/js/a"]);
  assert.strictEqual(await client.getAll().prefix("/js/").count(), 2);

  const outcome = await client
    .if("/js/a", "Value", "==", "1")
    .and("/js/none", "Create", "==", 0)
    .then(client.put("/js/a").value("one"), client.get("/js/b"))
    .else(client.delete().key("/js/a"))
    .commit();
  assert.ok(outcome.succeeded);

  const watcher = await client.watch().prefix("/js/watched/").create();
  const put = once(watcher, "put");
  await client.put("/js/watched/x").value("1");
  const [changed] = await put;
  assert.strictEqual(changed.value.toString(), "1");
  const deleted = once(watcher, "delete");
  await client.delete().key("/js/watched/x");
  const [gone] = await deleted;
  assert.strictEqual(gone.key.toString(), "/js/watched/x");
  await watcher.cancel();

  const lease = client.lease(30);
  await lease.put("/js/leased").value("1");
  await lease.keepaliveOnce();
  assert.strictEqual(await client.get("/js/leased").string(), "1");
  await lease.revoke();
  assert.strictEqual(await client.get("/js/leased").string(), null);

  const order = [];
  const section = async (name) => {
    // This client's lock does not wait, so a loser asks again until it wins.
    for (let tries = 0; tries < 500; tries++) {
      try {
        return await client.lock("/js/lock").do(async () => {
          order.push(`${name} in`);
          await new Promise((resolve) => setImmediate(resolve));
          order.push(`${name} out`);
        });
      } catch (error) {
        if (error.constructor.name !== "EtcdLockFailedError") throw error;
      }
    }
    throw new Error("the lock was never free");
  };
  await Promise.all([section("a"), section("b")]);
  assert.deepStrictEqual(order.slice().sort(), ["a in", "a out", "b in", "b out"]);
  assert.strictEqual(order[0].split(" ")[0], order[1].split(" ")[0]);

  const election = client.election("js", 10);
  const campaign = election.campaign("me");
  await new Promise((resolve, reject) => campaign.on("elected", resolve).on("error", reject));
  assert.strictEqual(await election.leader(), "me");
  await campaign.resign();

  const role = await client.role("js").create();
  await role.grant({ permission: "Readwrite", range: Range.prefix("/js/") });
  const [granted] = await role.permissions();
  assert.strictEqual(granted.permission, "Readwrite");
  const user = await client.user("ann").create("annpw");
  await user.addRole("js");
  assert.deepStrictEqual((await user.roles()).map((role) => role.name), ["js"]);
  assert.ok((await client.getUsers()).some((user) => user.name === "ann"));
  if (CLIENT_USER) {
    const ann = connect({ username: "ann", password: "annpw" });
    await ann.put("/js/ann").value("1");
    await assert.rejects(ann.put("/other").value("1"), /permission denied/);
    await assert.rejects(ann.get("/other").string(), /permission denied/);
    ann.close();
    // Without a user and a password the name in the certificate counts, which is nobody that may read.
    for (const auth of [undefined, { username: "root", password: "wrong" }]) {
      const refused = connect(auth);
      await assert.rejects(refused.get("/js/a").string(), /permission denied|authentication failed/);
      refused.close();
    }
  }
  await user.delete();
  await role.delete();
  await assert.rejects(client.put("/js/x").value("1").lease("404"), /requested lease not found/);
  assert.strictEqual((await client.maintenance.status()).errors?.length ?? 0, 0);
  await client.delete().prefix("/js/");
  assert.strictEqual(await client.getAll().prefix("/js/").count(), 0);
  client.close();
  console.log("PASS");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
