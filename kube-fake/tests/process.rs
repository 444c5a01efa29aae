//! The fake API server as a process: what tests in other languages use.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn it_serves_what_it_loads_and_obeys() {
    let dir = tempfile::tempdir().unwrap();
    let (list, config) = (dir.path().join("list.json"), dir.path().join("config"));
    let map =
        r#"{"items": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "1"}}]}"#;
    std::fs::write(&list, map).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_cleat-kube-fake"))
        .args(["--minor-version=30", "--resource=example.org/v1/Widget/widgets/cluster"])
        .arg(format!("--load={}", list.display()))
        .arg(format!("--kubeconfig={}", config.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut process = Process(child);
    let mut url = String::new();
    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let url = url.trim().to_owned();
    assert!(std::fs::read_to_string(&config).unwrap().contains(&url));

    let (client, uri) = (hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new()), url);
    let client = client.build_http::<http_body_util::Full<bytes::Bytes>>();
    let call = async |method: &str, path: &str| {
        let request = http::Request::builder().method(method).uri(format!("{uri}{path}"));
        let response = client.request(request.body(http_body_util::Full::default()).unwrap()).await.unwrap();
        let code = response.status().as_u16();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
        (code, String::from_utf8(body.to_vec()).unwrap())
    };
    assert!(call("GET", "/version").await.1.contains("v1.30.0"));
    assert!(call("GET", "/apis/example.org/v1").await.1.contains("widgets"));
    let (code, map) = call("GET", "/api/v1/namespaces/default/configmaps/m").await;
    assert!(code == 200 && map.contains(r#""a":"1""#), "{map}");
    assert_eq!(call("POST", "/fake/fail?code=503&verb=get").await.0, 200);
    assert_eq!(call("GET", "/api/v1/namespaces/default/configmaps/m").await.0, 503);
    assert_eq!(call("GET", "/api/v1/namespaces/default/configmaps/m").await.0, 200);
    for (path, expected) in [("expire", 200), ("cut", 200), ("heal", 200), ("dance", 404), ("fail?code=200", 400)] {
        assert_eq!(call("POST", &format!("/fake/{path}")).await.0, expected, "{path}");
    }
    let pid = process.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(process.0.wait().unwrap().success(), "it ends when it is told to");
}
