//! What a process left in the page cache alone, read by the next one.

use super::*;
use crate::simulation::disk::{Broken, Errno, SimulatedDisk, Waiting};
use crate::simulation::random::Random;

fn open_on(disk: &SimulatedDisk) -> (Wal, Opened) {
    let options = WalOptions { disk: Disk::from(disk.clone()), segment_bytes: SEGMENT_BYTES, ..WalOptions::default() };
    Wal::open(Path::new("wal"), options).unwrap()
}

/// Whoever finds it vouches for it from the first moment on.
#[tokio::test(start_paused = true)]
async fn what_a_failed_sync_left_in_the_page_cache_is_durable_once_the_log_is_open() {
    let mut left = 0;
    for seed in 0..40 {
        let disk = SimulatedDisk::new(Random::new(seed), Waiting::Task);
        let (wal, _) = open_on(&disk);
        wal.append_durably([put(1, 0, 600)]).await.unwrap();
        disk.break_down(Broken::Syncs, Errno::Io);
        wal.append_durably([put(1, 1, 1500), put(1, 2, 100)]).await.unwrap_err();
        disk.mend();
        let disk = disk.end_process();
        drop(wal);

        let (wal, opened) = open_on(&disk);
        let vouched = wal.entries();
        left += vouched.len() - 1;
        assert!(disk.settled().await);
        let disk = disk.lose_power();
        drop(wal);
        let (wal, again) = open_on(&disk);
        assert_eq!((wal.entries(), again.last), (vouched, opened.last), "seed {seed}");
    }
    assert!(left > 0, "the page cache was never all there was");
}
