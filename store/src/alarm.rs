//! Raised alarms: which member ran out of space or is corrupt. Replicated, so that every member refuses alike.

use api::etcdserverpb::{AlarmMember, AlarmType};
use std::collections::BTreeSet;

#[derive(Default)]
pub(crate) struct Alarms {
    raised: BTreeSet<(u64, i32)>,
    changed: bool,
}

impl Alarms {
    pub(crate) fn is_raised(&self, alarm: AlarmType) -> bool {
        self.raised.iter().any(|(_, raised)| *raised == alarm as i32)
    }

    /// Raises an alarm; false when it was raised before.
    pub(crate) fn activate(&mut self, member_id: u64, alarm: i32) -> bool {
        let new = self.raised.insert((member_id, alarm));
        self.changed |= new;
        new
    }

    /// Clears an alarm; false when it was not raised.
    pub(crate) fn deactivate(&mut self, member_id: u64, alarm: i32) -> bool {
        let cleared = self.raised.remove(&(member_id, alarm));
        self.changed |= cleared;
        cleared
    }

    /// The alarms of a type; of every type for `AlarmType::None`.
    pub(crate) fn list(&self, alarm: i32) -> Vec<AlarmMember> {
        let wanted = |raised: &i32| alarm == AlarmType::None as i32 || alarm == *raised;
        let member = |(member_id, alarm): &(u64, i32)| AlarmMember { member_id: *member_id, alarm: *alarm };
        self.raised.iter().filter(|(_, raised)| wanted(raised)).map(member).collect()
    }

    /// All alarms, when any changed since the last call.
    pub(crate) fn take_changed(&mut self) -> Option<Vec<(u64, i32)>> {
        std::mem::take(&mut self.changed).then(|| self.raised.iter().copied().collect())
    }

    pub(crate) fn restore(&mut self, member_id: u64, alarm: i32) {
        self.raised.insert((member_id, alarm));
    }
}
