//! Functions that ask this machine and its resolver.

use super::{Context, bytes, string};
use crate::template::{Function, Functions, Object, Param, Value};
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// Longest time for one question, with the resolver's own repetitions.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// More records than any template lists.
const MAX_RECORDS: usize = 10_000;

/// A service record.
struct Srv {
    target: String,
    port: u16,
    priority: u16,
    weight: u16,
}

impl Object for Srv {
    fn type_name(&self) -> &'static str {
        "*net.SRV"
    }

    fn fields(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("Target", self.target.as_str().into()),
            ("Port", i64::from(self.port).into()),
            ("Priority", i64::from(self.priority).into()),
            ("Weight", i64::from(self.weight).into()),
        ]
    }

    fn is_pointer(&self) -> bool {
        true
    }
}

/// Runs a question to its end. Templates are rendered on threads of their own, so this blocks nobody else.
fn ask<T>(question: impl AsyncFnOnce(TokioResolver) -> Option<T> + Send) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async {
        let resolver = TokioResolver::builder_tokio().ok()?.build().ok()?;
        let answer: std::pin::Pin<Box<dyn Future<Output = Option<T>>>> = Box::pin(question(resolver));
        tokio::time::timeout(LOOKUP_TIMEOUT, answer).await.ok()?
    })
}

/// The addresses of a host, in the order of their text; none if there is no answer.
fn addresses(host: &str) -> BTreeSet<String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return BTreeSet::from([address.to_string()]);
    }
    let host = host.to_owned();
    let found = ask(async move |resolver: TokioResolver| {
        let answer = resolver.lookup_ip(host).await.ok()?;
        Some(answer.iter().take(MAX_RECORDS).map(|address| address.to_string()).collect())
    });
    found.unwrap_or_default()
}

fn services(service: &str, protocol: &str, name: &str) -> Vec<Srv> {
    // Without service and protocol the name is asked for as it is.
    let name = if service.is_empty() && protocol.is_empty() {
        name.to_owned()
    } else {
        format!("_{service}._{protocol}.{name}")
    };
    let found = ask(async move |resolver: TokioResolver| {
        let answer = resolver.srv_lookup(name).await.ok()?;
        let record = |data: &RData| match data {
            RData::SRV(srv) => {
                Some(Srv { target: srv.target.to_string(), port: srv.port, priority: srv.priority, weight: srv.weight })
            }
            _ => None,
        };
        Some(answer.answers().iter().filter_map(|answer| record(&answer.data)).take(MAX_RECORDS).collect::<Vec<_>>())
    });
    let mut found = found.unwrap_or_default();
    // As confd sorts them: by their text.
    found.sort_by_key(|srv| format!("{}{}{}{}", srv.target, srv.port, srv.priority, srv.weight));
    found
}

fn texts_where(args: &[Value], keep: impl Fn(&str) -> bool) -> Value {
    Value::texts(addresses(&string(&args[0])).iter().filter(|address| keep(address)))
}

/// What all three programs have.
pub(super) fn add_common(functions: &mut Functions, context: &Context) {
    use Param::Text;
    let environment = context.environment.clone();
    functions.add(Function::variadic("getenv", &[Text], Text, move |args| {
        let set = environment.get(&string(&args[0])).filter(|value| !value.is_empty());
        Ok(match (set, args.get(1)) {
            (Some(value), _) => value.as_str().into(),
            (None, Some(default)) => default.clone(),
            (None, None) => "".into(),
        })
    }));
    functions.add(Function::new("lookupSRV", &[Text, Text, Text], |args| {
        let found = services(&string(&args[0]), &string(&args[1]), &string(&args[2]));
        Ok(Value::list("[]*net.SRV", found.into_iter().map(|srv| Value::Object(Rc::new(srv))).collect()))
    }));
    functions.add(Function::new("fileExists", &[Text], |args| {
        let path = string(&args[0]);
        // Anything but "there is no such file" counts as a file.
        let missing = std::fs::metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        Ok((!missing).into())
    }));
}

/// What confd and abtreece's fork have.
pub(super) fn add_confd(functions: &mut Functions) {
    functions.add(Function::new("lookupIP", &[Param::Text], |args| Ok(texts_where(args, |_| true))));
    functions.add(Function::new("lookupIPV4", &[Param::Text], |args| Ok(texts_where(args, |text| text.contains('.')))));
    functions.add(Function::new("lookupIPV6", &[Param::Text], |args| Ok(texts_where(args, |text| text.contains(':')))));
}

/// yunify's finds addresses of version 4 only.
pub(super) fn add_yunify(functions: &mut Functions) {
    functions.add(Function::new("lookupIP", &[Param::Text], |args| Ok(texts_where(args, |text| text.contains('.')))));
}

/// What abtreece's fork has besides confd's.
pub(super) fn add_more(functions: &mut Functions) {
    functions.add(Function::new("hostname", &[], |_| {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(name.into())
    }));
    functions.add(Function::new("lookupIfaceIPV4", &[Param::Text], |args| Ok(interface(&args[0], IpAddr::is_ipv4))));
    functions.add(Function::new("lookupIfaceIPV6", &[Param::Text], |args| Ok(interface(&args[0], IpAddr::is_ipv6))));
}

/// Where abtreece's fork has other results than confd.
pub(super) fn add_abtreece(functions: &mut Functions) {
    functions.add(Function::new("fileExists", &[Param::Text], |args| {
        Ok(std::fs::metadata(string(&args[0])).is_ok().into())
    }));
}

/// The first address of an interface, or nothing.
fn interface(name: &Value, keep: impl Fn(&IpAddr) -> bool) -> Value {
    let found = if_addrs::get_if_addrs().unwrap_or_default();
    let address = found.iter().find(|found| found.name.as_bytes() == bytes(name) && keep(&found.ip()));
    address.map_or_else(|| "".into(), |found| found.ip().to_string().into())
}
