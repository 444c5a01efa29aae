//! An API server of Kubernetes that vanishes without a word, as when its machine is gone.

use super::{Running, Site, Store, read, until};
use anyhow::{Result, ensure};
use harness::network::Network;
use harness::server::built_binary;
use kube_fake::{FakeKube, Options};
use serde_json::json;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Far longer than a connection that is dead takes to be noticed, and far shorter than what an API server that is there
/// may be silent for.
const LIMIT: Duration = Duration::from_mins(2);

/// Passes bytes on to the API server, which is on loopback alone. Its connections end with it.
async fn forward(listener: TcpListener, to: SocketAddr) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (mut down, _) = listener.accept().await?;
        connections.spawn(async move {
            let mut up = TcpStream::connect(to).await?;
            tokio::io::copy_bidirectional(&mut down, &mut up).await
        });
    }
}

/// The word of a program's log that its watch is none any more.
async fn notices(what: &str, running: &Running, word: &str) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !running.log().contains(word) {
        ensure!(Instant::now() < deadline, "{what} did not notice: {}", running.log());
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_that_swallows_the_api_server_is_noticed_by_who_follows_it() -> Result<()> {
    let kube = FakeKube::start(Options::default()).await?;
    let app = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app", "namespace": "shop"}, "data": {"name": name}});
    kube.put(app("one"))?;
    let mut network = Network::new()?;
    let member = network.add()?;
    let url = kube.url();
    let target: SocketAddr = url.trim_start_matches("http://").parse()?;
    let listener = TcpListener::bind((network.bridge(), 0)).await?;
    let address = listener.local_addr()?;
    let forwarder = tokio::spawn(forward(listener, target));

    let site = Site::new()?;
    site.resource("a", &["/shop/configmaps/app".to_owned()], "{{getv \"/shop/configmaps/app/name\"}}", "")?;
    let inside = |command: &Command| {
        let mut inside = Command::new(&network.wrapper(member)[0]);
        inside.args(&network.wrapper(member)[1..]).arg(command.as_std().get_program());
        inside.args(command.as_std().get_args()).stdin(Stdio::null());
        inside
    };
    let store = Store { backend: "kubernetes", node: format!("http://{address}") };
    let mut confd = Running::start(inside(&site.command(&store, &["-watch"])?))?;
    let kubeconfig = site.out("kubeconfig");
    std::fs::write(&kubeconfig, kube.kubeconfig(None, "shop").replace(&url, &store.node))?;
    let mut metad = Command::new(built_binary("metad")?);
    metad.args(["--backend", "local", "--listen", "127.0.0.1:9080", "--kubernetes"]);
    let mut metad = Running::start({
        let mut command = inside(&metad);
        command.env("KUBECONFIG", kubeconfig);
        command
    })?;
    until("the first file", &site.out("a"), "one").await?;
    notices("metad", &metad, "listed the pods").await?;

    network.deafen(member)?;
    kube.put(app("two"))?;
    // What is sent from here on is lost, and so is the word that the connections are none.
    forwarder.abort();
    drop(forwarder.await);
    notices("confd", &confd, "trying again").await?;
    notices("metad", &metad, "trying again").await?;
    ensure!(read(&site.out("a")) == "one", "{}", confd.log());

    let forwarder = tokio::spawn(forward(TcpListener::bind(address).await?, target));
    network.heal()?;
    until("the change meanwhile", &site.out("a"), "two").await?;
    ensure!(!confd.has_ended()? && !metad.has_ended()?, "{}\n{}", confd.log(), metad.log());
    forwarder.abort();
    kube.stop().await;
    Ok(())
}
