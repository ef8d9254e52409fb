//! A file system that is full, and has room again.

use std::process::{Command, Stdio};

use order_testkit::skip;

use super::*;

/// A file system of its own in memory, unmounted at the end.
struct Mount(TempDir);

impl Mount {
    /// `None` without the right to mount.
    fn new(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(directory.path())
            .stderr(Stdio::null())
            .status();
        let is_mounted = mounted.is_ok_and(|status| status.success());
        is_mounted.then(|| Self(directory))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.0.path().display());
        }
    }
}

#[tokio::test]
async fn full_file_system_makes_the_store_unready_until_there_is_room() {
    let Some(mount) = Mount::new("4m") else {
        skip!("the right to mount a file system");
    };
    let mut test = Sqlite::make().await;
    test.store = open(&mount.0.path().join("orders.db"), &test.clock);
    // Another file on the disk, which the test deletes later to make room.
    let ballast = mount.0.path().join("ballast");
    fs::write(&ballast, vec![1; 2 * 1024 * 1024]).expect("there is room");
    let mut stored = Vec::new();

    for n_creates in [1, 1, 100] {
        // The first time there is room for some; later there was room for none before.
        loop {
            let slice: Vec<_> = (0..n_creates).map(|_| test.new_order(None)).collect();
            let created = test.store.create(&slice).await;
            if let Some(Err(error)) = created.iter().find(|created| created.is_err()) {
                assert!(matches!(error, Error::StoreUnavailable { .. }), "{error:?}");
                break;
            }
            stored.extend(slice.iter().map(|new| new.id));
        }
        let full = test.store.check(&ctx()).await;
        assert!(
            matches!(full, Err(Error::StoreUnavailable { .. })),
            "{full:?}"
        );
        let found = status(&test.store, stored[0]).await;
        assert_eq!(found, Some(OrderStatus::Pending), "reads go on");
    }
    fs::remove_file(ballast).expect("can be removed");

    test.store.check(&ctx()).await.expect("is ready again");
    stored.push(create(&test.store, test.new_order(None)).await);
    for order_id in stored {
        let found = status(&test.store, order_id).await;
        assert_eq!(found, Some(OrderStatus::Pending));
    }
    test.store.close().await;
}
