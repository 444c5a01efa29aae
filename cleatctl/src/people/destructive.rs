//! What is asked before something is deleted: only of a person at a terminal, and never by a program that is called
//! `etcdctl`. `--dry-run` says what would be done instead.

use super::advice::ended;
use super::pages::Pages;
use super::terminal::{Terminal, Tone, confirm};
use super::{print, text};
use crate::cli::Flag;
use crate::context::Context;
use crate::failure::Failure;
use api::etcdserverpb::{DeleteRangeRequest, Member, RangeRequest};
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
        ended(name_keys(client, request, &terminal).await)?;
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
        confirm(&terminal, false, &question(request, count)).await?;
    }
    Ok(true)
}

/// Prints the keys that a request would delete.
async fn name_keys(client: &Client, request: &DeleteRangeRequest, terminal: &Terminal) -> anyhow::Result<()> {
    let mut pages = Pages::of_range(client, &request.key, &request.range_end).keys_only();
    let mut keys = 0;
    while let Some(kv) = pages.next().await? {
        keys += 1;
        print(&format!("{}\n", terminal.paint(Tone::Bad, &format!("- {}", text::show(&kv.key)))))?;
    }
    print(&format!("{} to delete; nothing was deleted (--dry-run)\n", text::count(keys, "key", "keys")))
}

/// True if a member is to be removed. What a dry run would do is printed.
///
/// # Errors
/// The cluster's, or the answer was not yes.
pub(crate) async fn permits_remove(context: &Context, client: &Client, id: u64) -> Result<bool, Failure> {
    let terminal = Terminal::detect();
    let (is_dry_run, is_sure) = (context.switch(&DRY_RUN), context.switch(&YES) || !terminal.is_attended);
    if context.is_etcdctl() || (is_sure && !is_dry_run) {
        return Ok(true);
    }
    let members = client.known_members().await?.members;
    let Some(what) = removal(&members, id) else { return Ok(true) };
    if is_dry_run {
        ended(print(&format!("would remove {what}; nothing was removed (--dry-run)\n")))?;
        return Ok(false);
    }
    confirm(&terminal, false, &format!("Remove {what}?")).await?;
    Ok(true)
}

/// The member, and what is left without it; None if there is no such member, which the server says.
fn removal(members: &[Member], id: u64) -> Option<String> {
    let member = members.iter().find(|member| member.id == id)?;
    let name = if member.name.is_empty() { "a member that never started" } else { &member.name };
    let voters = members.iter().filter(|other| !other.is_learner && other.id != id).count();
    let tolerated = text::count(voters.saturating_sub(1) / 2, "failure", "failures");
    let left = text::count(voters, "voter is", "voters are");
    Some(format!("{} ({id:x}): {left} left, {tolerated} tolerated", text::show(name.as_bytes())))
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
    fn who_removes_a_member_is_told_what_is_left() {
        let member = |id, name: &str, is_learner| Member { id, name: name.to_owned(), is_learner, ..Member::default() };
        let members = [member(1, "a", false), member(2, "b", false), member(3, "", false), member(4, "d", true)];
        for (id, expected) in [
            (1, Some("a (1): 2 voters are left, 0 failures tolerated")),
            (3, Some("a member that never started (3): 2 voters are left, 0 failures tolerated")),
            (4, Some("d (4): 3 voters are left, 1 failure tolerated")),
            (5, None),
        ] {
            assert_eq!(removal(&members, id).as_deref(), expected, "{id}");
        }
    }

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
