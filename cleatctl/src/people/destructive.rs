//! What is asked before something is deleted: only of a person at a terminal, and never by a program that is called
//! `etcdctl`. `--dry-run` says what would be done instead.

use super::pages::Pages;
use super::terminal::{Terminal, Tone, confirm};
use super::{print, text};
use crate::cli::Flag;
use crate::context::Context;
use crate::failure::Failure;
use api::etcdserverpb::{DeleteRangeRequest, RangeRequest};
use client::Client;

pub(crate) const DRY_RUN: Flag = Flag::switch("dry-run", "only show what would be done").cleat();
pub(crate) const YES: Flag = Flag::switch("yes", "do not ask").short('y').cleat();

/// True if the keys are to be deleted. What a dry run would delete is printed.
///
/// # Errors
/// The cluster's, or the answer was not yes.
pub(crate) async fn permits_del(
    context: &Context,
    client: &Client,
    request: &DeleteRangeRequest,
) -> Result<bool, Failure> {
    if context.is_etcdctl() {
        return Ok(true);
    }
    let terminal = Terminal::detect();
    if context.switch(&DRY_RUN) {
        let mut pages = Pages::of_range(client, &request.key, &request.range_end).keys_only();
        let mut keys = 0;
        while let Some(kv) = pages.next().await? {
            keys += 1;
            print(&format!("{}\n", terminal.paint(Tone::Bad, &format!("- {}", text::show(&kv.key)))))?;
        }
        print(&format!("{} to delete; nothing was deleted (--dry-run)\n", text::count(keys, "key", "keys")))?;
        return Ok(false);
    }
    if request.range_end.is_empty() || context.switch(&YES) || !terminal.is_attended {
        return Ok(true);
    }
    let count = RangeRequest {
        key: request.key.clone(),
        range_end: request.range_end.clone(),
        count_only: true,
        ..RangeRequest::default()
    };
    let count = usize::try_from(client.range(count).await?.count).unwrap_or(0);
    if count > 0 {
        confirm(&terminal, false, &question(request, count))?;
    }
    Ok(true)
}

fn question(request: &DeleteRangeRequest, count: usize) -> String {
    let keys = text::count(count, "key", "keys");
    let (first, end) = (&request.key, &request.range_end);
    if **end == *b"\0" && **first == *b"\0" {
        return format!("Delete every key of the store ({keys})?");
    }
    if **end == *b"\0" {
        return format!("Delete {keys} from {} to the last?", text::show(first));
    }
    if client::message::prefix_range(first.clone()).1 == end {
        return format!("Delete {keys} that begin with {}?", text::show(first));
    }
    format!("Delete {keys} from {} up to {}?", text::show(first), text::show(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_say_what_is_at_stake() {
        for (key, end, expected) in [
            ("\0", "\0", "Delete every key of the store (2 keys)?"),
            ("a", "\0", "Delete 2 keys from a to the last?"),
            ("a/", "a0", "Delete 2 keys that begin with a/?"),
            ("a", "c", "Delete 2 keys from a up to c?"),
        ] {
            let request = DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: false };
            assert_eq!(question(&request, 2), expected);
        }
    }
}
