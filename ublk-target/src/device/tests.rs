use super::*;

fn image(directory: &Path, name: &str, size_bytes: u64) -> PathBuf {
    let path = directory.join(name);
    File::create(&path).and_then(|file| file.set_len(size_bytes)).expect("an image file");
    path
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn an_image_file_is_held_by_one_at_a_time() {
    let directory = scratch();
    let path = image(directory.path(), "disk", (1 << 20) + 100);
    let first = Device::open(&path, Access::Exclusive { wait_ms: 0 }).expect("the first holder");
    assert_eq!(first.size_bytes(), 1 << 20);
    let second = Device::open(&path, Access::Exclusive { wait_ms: 0 }).expect_err("a second holder");
    assert_eq!(second.kind(), ErrorKind::Busy);
    Device::open(&path, Access::Inspect).expect("looking is free");
    drop(first);
    Device::open(&path, Access::Exclusive { wait_ms: 0 }).expect("free again");
}

#[test]
fn a_grown_file_is_seen_and_a_shrunk_one_is_an_error() {
    let directory = scratch();
    let path = image(directory.path(), "disk", 1 << 20);
    let device = Device::open(&path, Access::Exclusive { wait_ms: 0 }).expect("opens");
    image(directory.path(), "disk", 2 << 20);
    assert_eq!(device.refresh_size().expect("grown"), 2 << 20);
    image(directory.path(), "disk", 1 << 20);
    assert_eq!(device.refresh_size().expect_err("shrunk").kind(), ErrorKind::Invalid);
    assert_eq!(device.size_bytes(), 2 << 20);
}

#[test]
fn what_is_no_disk_is_refused_with_a_reason() {
    let directory = scratch();
    let missing = Device::open(&directory.path().join("none"), Access::Inspect).expect_err("missing");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let error = Device::open(directory.path(), Access::Inspect).expect_err("a directory");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = Device::open(Path::new("/dev/null"), Access::Inspect).expect_err("a character device");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn a_store_on_the_origin_is_refused() {
    let directory = scratch();
    let origin = image(directory.path(), "origin", 1 << 20);
    let store = image(directory.path(), "store", 1 << 20);
    refuse_recursion("store", &store, &[&origin]).expect("two files beside each other are fine");
    let error = refuse_recursion("store", &origin, &[&origin]).expect_err("one file for both");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&origin, &link).expect("a link");
    refuse_recursion("store", &link, &[&origin]).expect_err("the same file by another name");
    let metadata = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(&store).expect("there"));
    let chain = backing_chain(&store).expect("resolves");
    assert!(chain.contains(&Backing::Device(DeviceNumber::from_raw(metadata))), "{chain:?}");
}
