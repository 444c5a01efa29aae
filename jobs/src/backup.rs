//! Snapshots on their way to the place where they are kept.

use crate::place::{Place, name_at};
use anyhow::{Result, ensure};
use std::path::PathBuf;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StoreArgs {
    /// The snapshot, of `cleatctl snapshot save`. It is not there any more afterwards
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A directory, or `s3://BUCKET/PREFIX` with address and keys in AWS's variables
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// How many snapshots to keep there
    #[arg(long, value_name = "N", default_value_t = 28, value_parser = clap::value_parser!(u16).range(1..))]
    keep_last: u16,
}

/// Stores a snapshot, and then deletes the oldest beyond those that are kept: never before the new one is there.
///
/// # Errors
/// The snapshot cannot be stored, or an old one not be deleted.
pub(crate) async fn store(args: &StoreArgs) -> Result<()> {
    let place = Place::parse(&args.to)?;
    // A job that is run again after it stored its file has nothing left to store.
    if args.file.exists() {
        let size = std::fs::metadata(&args.file)?.len();
        ensure!(size > 0, "{} is empty", args.file.display());
        let name = name_at(chrono::Utc::now());
        place.put(&args.file, &name).await?;
        // Best effort: what is left of it goes with its volume.
        drop(std::fs::remove_file(&args.file));
        say!("stored {name}, {size} bytes, in {}", args.to);
    } else {
        say!("{} is not there: it was stored before", args.file.display());
    }
    let names = place.list().await?;
    for name in &names[..names.len().saturating_sub(args.keep_last.into())] {
        place.delete(name).await?;
        say!("deleted {name}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_go_and_the_newest_stay() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["20200101T000000Z.db", "20200102T000000Z.db", "20200103T000000Z.db", "mine.txt"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let file = dir.path().join(".incoming");
        std::fs::write(&file, "new").unwrap();
        let to = dir.path().to_str().unwrap().to_owned();
        let args = StoreArgs { file, to, keep_last: 2 };
        for _ in 0..2 {
            store(&args).await.unwrap();
            let names = Place::parse(&args.to).unwrap().list().await.unwrap();
            assert_eq!((names.len(), names[0].as_str()), (2, "20200103T000000Z.db"));
            assert!(dir.path().join("mine.txt").exists());
        }
        std::fs::write(&args.file, "").unwrap();
        assert!(store(&args).await.unwrap_err().to_string().contains("is empty"));
    }
}
