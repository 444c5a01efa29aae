//! `revert KEY --rev N`: gives a key the value that it had.

use crate::people::terminal::confirm;
use crate::people::{Session, diff, pages, print, print_in_passing, text};
use anyhow::{Result, bail, ensure};
use api::etcdserverpb::{PutRequest, TxnRequest};
use api::mvccpb::KeyValue;
use bytes::Bytes;
use client::message;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct RevertArgs {
    /// The key
    pub(crate) key: Vec<u8>,
    /// The revision whose value the key gets; it is deleted if it did not exist then
    pub(crate) rev: i64,
    /// Only show what would change
    pub(crate) dry_run: bool,
    /// Do not ask
    pub(crate) yes: bool,
}

/// What must be written, on the condition that the key is still as it was read. None if it has the value already.
fn plan(key: &Bytes, now: Option<&KeyValue>, then: Option<&KeyValue>) -> Option<TxnRequest> {
    let (unchanged, write) = match (now, then) {
        (None, None) => return None,
        (Some(now), Some(then)) if now.value == then.value => return None,
        (Some(now), Some(then)) => {
            // The lease is of the key that is there: the one of then may be gone.
            let put = PutRequest { ignore_lease: true, ..message::put(key.clone(), then.value.clone()) };
            (message::modified_at(key.clone(), now.mod_revision), message::op::put(put))
        }
        (None, Some(then)) => {
            (message::is_absent(key.clone()), message::op::put(message::put(key.clone(), then.value.clone())))
        }
        (Some(now), None) => {
            (message::modified_at(key.clone(), now.mod_revision), message::op::delete(message::delete(key.clone())))
        }
    };
    Some(TxnRequest { compare: vec![unchanged], success: vec![write], failure: Vec::new() })
}

/// Shows what changes, asks, and writes it unless the key was changed meanwhile.
///
/// # Errors
/// The cluster's; the revision cannot be read; the key was changed meanwhile.
pub(crate) async fn revert(session: &Session, args: &RevertArgs) -> Result<()> {
    let client = session.client()?;
    let key = Bytes::from(args.key.clone());
    let shown = text::show(&key);
    let now = client.get(key.clone()).await?;
    let mut at = message::get(key.clone());
    at.revision = args.rev;
    let then = match client.range(at).await {
        Ok(mut answer) => answer.kvs.pop(),
        Err(error) => return Err(pages::told(&client, error, args.rev).await),
    };
    let Some(txn) = plan(&key, now.as_ref(), then.as_ref()) else {
        return print(&match now {
            Some(_) => format!("{shown} has the value of revision {} already\n", args.rev),
            None => format!("{shown} does not exist, and did not at revision {}\n", args.rev),
        });
    };
    // Only the value is taken back.
    let then = then.map(|then| KeyValue { lease: now.as_ref().map_or(0, |now| now.lease), ..then });
    if let Some(preview) = diff::preview(now.as_ref(), then.as_ref(), &session.terminal) {
        print_in_passing(&preview)?;
    }
    if args.dry_run {
        return print("nothing was written (--dry-run)\n");
    }
    confirm(&session.terminal, args.yes, &format!("Take {shown} back to revision {}?", args.rev)).await?;
    let answer = client.txn(txn).await?;
    ensure!(
        answer.succeeded,
        "{shown} was changed by somebody else in the meantime, and nothing was written; look at `cleatctl history` and \
         give the command again"
    );
    let Some(header) = answer.header else { bail!("the server's answer has no header") };
    print(&match then {
        Some(_) => format!("{shown} has the value of revision {} again, at revision {}\n", args.rev, header.revision),
        None => format!("{shown} is deleted, as it was at revision {}, at revision {}\n", args.rev, header.revision),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::etcdserverpb::request_op::Request;

    fn kv(value: &'static str) -> KeyValue {
        KeyValue { value: Bytes::from_static(value.as_bytes()), mod_revision: 9, lease: 5, ..KeyValue::default() }
    }

    #[test]
    fn only_what_differs_is_written_and_on_a_condition() {
        let key = Bytes::from_static(b"k");
        assert_eq!(plan(&key, None, None), None);
        assert_eq!(plan(&key, Some(&kv("a")), Some(&kv("a"))), None);
        let txn = plan(&key, Some(&kv("a")), Some(&kv("b"))).unwrap();
        assert_eq!(txn.compare, [message::modified_at(key.clone(), 9)]);
        let Some(Request::RequestPut(put)) = &txn.success[0].request else { panic!("{txn:?}") };
        assert!(put.ignore_lease && put.lease == 0 && put.value == "b", "{put:?}");
        let txn = plan(&key, None, Some(&kv("b"))).unwrap();
        assert_eq!(txn.compare, [message::is_absent(key.clone())]);
        let Some(Request::RequestPut(put)) = &txn.success[0].request else { panic!("{txn:?}") };
        assert!(!put.ignore_lease && put.lease == 0, "{put:?}");
        let txn = plan(&key, Some(&kv("a")), None).unwrap();
        assert_eq!(txn.compare, [message::modified_at(key, 9)]);
        assert!(matches!(txn.success[0].request, Some(Request::RequestDeleteRange(_))), "{txn:?}");
    }
}
