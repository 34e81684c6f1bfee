//! A directory that changes in every way operators, editors and kubelets change one. Nothing sleeps: tests wait for
//! events, and where nothing must be told, for the report or the later event that proves the scan was done.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edgemesh_api::SourceEvent;
use edgemesh_metadata::ManifestDir;
use edgemesh_net::meet::{Report, Source, Trouble};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(30);

/// What is reported now.
struct Board {
    shown: Mutex<BTreeMap<String, String>>,
    changed: watch::Sender<()>,
}

impl Report for Board {
    fn report(&self, place: &str, trouble: Option<&Trouble>) {
        let mut shown = self.shown.lock().expect("not poisoned");
        match trouble {
            Some(trouble) => shown.insert(place.to_owned(), trouble.message.clone()),
            None => shown.remove(place),
        };
        self.changed.send_replace(());
    }
}

struct Bench {
    root: tempfile::TempDir,
    directory: PathBuf,
    events: mpsc::Receiver<SourceEvent>,
    board: Arc<Board>,
    source: JoinHandle<()>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.source.abort();
    }
}

impl Bench {
    /// A source on `root/manifests`, which holds these files; nothing is made when there are none.
    fn new(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let directory = root.path().join("manifests");
        if !files.is_empty() {
            fs::create_dir(&directory).expect("made");
        }
        files.iter().for_each(|(name, text)| write(&directory, name, text));
        Self::start(root, directory, None)
    }

    /// The same for a gateway.
    fn of_gateway(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let directory = root.path().join("manifests");
        fs::create_dir(&directory).expect("made");
        files.iter().for_each(|(name, text)| write(&directory, name, text));
        let source = ManifestDir::new(&directory, "default").with_ingress();
        Self::run(root, directory, source)
    }

    fn start(root: tempfile::TempDir, directory: PathBuf, rescan: Option<Duration>) -> Self {
        let source = ManifestDir::new(&directory, "default");
        let source = rescan.into_iter().fold(source, ManifestDir::rescan_every);
        Self::run(root, directory, source)
    }

    fn run(root: tempfile::TempDir, directory: PathBuf, source: ManifestDir) -> Self {
        let board = Arc::new(Board { shown: Mutex::default(), changed: watch::Sender::new(()) });
        let (sender, events) = mpsc::channel(64);
        let source = tokio::spawn(Box::new(source).run(sender, board.clone()));
        Self { root, directory, events, board, source }
    }

    fn write(&self, name: &str, text: &str) {
        write(&self.directory, name, text);
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.directory.join(name)).expect("removed");
    }

    async fn next(&mut self) -> String {
        let event = timeout(DEADLINE, self.events.recv()).await;
        match event.expect("an event in time").expect("the source runs") {
            SourceEvent::Reset => "reset".to_owned(),
            SourceEvent::Upsert(object) => {
                let form = match &*object {
                    edgemesh_api::Object::Service(service) => {
                        service.spec.cluster_ip.clone().unwrap_or_default()
                    }
                    _ => "".into(),
                };
                format!("+{} {form}", object.key()).trim_end().to_owned()
            }
            SourceEvent::Delete(_, key) => format!("-{key}"),
            SourceEvent::Synced => "synced".to_owned(),
            other => panic!("a directory does not list by kind: {other:?}"),
        }
    }

    #[track_caller]
    fn expect(&mut self, expected: &[&str]) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            for expected in expected {
                assert_eq!(self.next().await, *expected, "at {caller}");
            }
        }
    }

    /// Waits until a report says so.
    async fn reported(&self, place: &str, message: &str) {
        let matches = || {
            let shown = self.board.shown.lock().expect("not poisoned");
            shown.iter().any(|(known, text)| known.ends_with(place) && text.contains(message))
        };
        self.until(matches, &format!("{place}: {message}")).await;
    }

    /// Waits until nothing is reported any more.
    async fn all_clear(&self) {
        self.until(|| self.board.shown.lock().expect("not poisoned").is_empty(), "all clear").await;
    }

    async fn until(&self, holds: impl Fn() -> bool, what: &str) {
        let mut changed = self.board.changed.subscribe();
        while !holds() {
            let change = timeout(DEADLINE, changed.changed()).await;
            let shown = || self.board.shown.lock().expect("not poisoned").clone();
            change
                .unwrap_or_else(|_| panic!("no report {what:?} in {:?}", shown()))
                .expect("the board stays");
        }
    }

    fn nothing_more(&mut self) {
        if let Ok(event) = self.events.try_recv() {
            panic!("unexpected {event:?}");
        }
    }
}

fn write(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join(name), text).expect("written");
}

fn service(name: &str, ip: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{clusterIP: {ip}}}}}\n")
}

#[tokio::test]
async fn lists_once_and_then_tells_changes() {
    let (a, b) = (service("a", "10.0.0.1"), service("b", "10.0.0.2"));
    let mut bench = Bench::new(&[("1.yaml", &a), ("2.yml", &b), ("3.txt", &a), (".4.yaml", "broken: [")]);
    bench.expect(&["reset", "+default/a 10.0.0.1", "+default/b 10.0.0.2", "synced"]).await;
    bench.write("2.yml", &service("b", "10.0.0.3"));
    bench.expect(&["+default/b 10.0.0.3"]).await;
    bench.write(
        "5.json",
        r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n","namespace":"dropped"}}"#,
    );
    bench.expect(&["+n"]).await;
    bench.remove("1.yaml");
    bench.expect(&["-default/a"]).await;
    bench.all_clear().await;
}

#[tokio::test]
async fn unknown_kinds_are_reported_with_their_line_and_withdrawn() {
    let foreign = "---\n\nkind: Deployment\napiVersion: apps/v1\nmetadata: {name: d}\n";
    let mut bench = Bench::new(&[("1.yaml", &format!("{}{foreign}", service("a", "10.0.0.1")))]);
    bench.expect(&["reset", "+default/a 10.0.0.1", "synced"]).await;
    bench.reported("1.yaml:4 Deployment d", "not read by the mesh").await;
    bench.write("1.yaml", &service("a", "10.0.0.2"));
    bench.expect(&["+default/a 10.0.0.2"]).await;
    bench.all_clear().await;
}

#[tokio::test]
async fn only_a_gateway_reads_the_kinds_of_a_gateway() {
    let service = service("a", "10.0.0.1");
    let files = format!(
        "{service}---\n{{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {{name: g}}}}\n---\n{{apiVersion: v1, kind: Secret, metadata: {{name: s}}, type: kubernetes.io/tls}}\n"
    );
    let mut agent = Bench::new(&[("1.yaml", &files)]);
    agent.expect(&["reset", "+default/a 10.0.0.1", "synced"]).await;
    agent
        .reported("1.yaml:3 Gateway.networking.istio.io default/g", "only a gateway acts on this kind")
        .await;
    agent.reported("1.yaml:5 Secret default/s", "only a gateway acts on this kind").await;
    let mut gateway = Bench::of_gateway(&[("1.yaml", &files)]);
    gateway.expect(&["reset", "+default/a 10.0.0.1", "+default/g", "+default/s", "synced"]).await;
    gateway.all_clear().await;
}

#[tokio::test]
async fn a_half_written_file_keeps_its_objects() {
    let both = format!("{}---\n{}", service("a", "10.0.0.1"), service("b", "10.0.0.2"));
    let mut bench = Bench::new(&[("1.yaml", &both)]);
    bench.expect(&["reset", "+default/a 10.0.0.1", "+default/b 10.0.0.2", "synced"]).await;
    bench.write("1.yaml", &format!("{}---\n{{apiVersion: v1, kind: Serv", service("a", "10.0.0.9")));
    bench.expect(&["+default/a 10.0.0.9"]).await;
    bench.reported("1.yaml:4 document", "is no YAML").await;
    bench.write("1.yaml", "");
    bench.reported("1.yaml", "no object any more").await;
    bench.nothing_more();
    bench.write("1.yaml", &service("b", "10.0.0.3"));
    bench.expect(&["+default/b 10.0.0.3", "-default/a"]).await;
    bench.all_clear().await;
}

#[tokio::test]
async fn a_file_that_is_being_written_is_not_read() {
    use std::io::Write;
    let both = format!("{}---\n{}", service("a", "10.0.0.1"), service("b", "10.0.0.2"));
    let mut bench = Bench::new(&[("1.yaml", &both)]);
    bench.expect(&["reset", "+default/a 10.0.0.1", "+default/b 10.0.0.2", "synced"]).await;
    let mut file = fs::File::create(bench.directory.join("1.yaml")).expect("truncated");
    file.write_all(service("a", "10.0.0.1").as_bytes()).expect("written");
    bench.write("2.yaml", &service("c", "10.0.0.3"));
    bench.expect(&["+default/c 10.0.0.3"]).await;
    file.write_all(format!("---\n{}", service("b", "10.0.0.4")).as_bytes()).expect("written");
    drop(file);
    bench.expect(&["+default/b 10.0.0.4"]).await;
}

#[tokio::test]
async fn files_are_replaced_by_rename() {
    let mut bench = Bench::new(&[("1.yaml", &service("a", "10.0.0.1"))]);
    bench.expect(&["reset", "+default/a 10.0.0.1", "synced"]).await;
    for round in 2..6 {
        let ip = format!("10.0.0.{round}");
        bench.write("1.yaml.tmp", &service("a", &ip));
        fs::rename(bench.directory.join("1.yaml.tmp"), bench.directory.join("1.yaml")).expect("renamed");
        bench.expect(&[&format!("+default/a {ip}")]).await;
    }
    fs::rename(bench.directory.join("1.yaml"), bench.directory.join("2.yaml")).expect("renamed");
    bench.write("3.yaml", &service("b", "10.0.1.1"));
    bench.expect(&["+default/b 10.0.1.1"]).await;
    bench.remove("3.yaml");
    bench.expect(&["-default/b"]).await;
}

/// As the kubelet's atomic writer does it: files are links into `..data`, which is a link that is swapped.
#[tokio::test]
async fn a_config_map_volume_is_swapped() {
    let root = tempfile::tempdir().expect("a directory");
    let directory = root.path().join("manifests");
    let version = |name: &str, files: &[(&str, String)]| {
        fs::create_dir_all(directory.join(name)).expect("made");
        files.iter().for_each(|(file, text)| write(&directory.join(name), file, text));
        symlink(name, directory.join("..data_tmp")).expect("linked");
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).expect("swapped");
    };
    version("..1", &[("a.yaml", service("a", "10.0.0.1")), ("b.yaml", service("b", "10.0.0.2"))]);
    symlink("..data/a.yaml", directory.join("a.yaml")).expect("linked");
    symlink("..data/b.yaml", directory.join("b.yaml")).expect("linked");
    let mut bench = Bench::start(root, directory.clone(), None);
    bench.expect(&["reset", "+default/a 10.0.0.1", "+default/b 10.0.0.2", "synced"]).await;
    version("..2", &[("a.yaml", service("a", "10.0.0.3"))]);
    bench.remove("b.yaml");
    fs::remove_dir_all(bench.directory.join("..1")).expect("removed");
    bench.expect(&["+default/a 10.0.0.3", "-default/b"]).await;
}

#[tokio::test]
async fn a_deleted_or_emptied_directory_empties_nothing() {
    let mut bench =
        Bench::new(&[("1.yaml", &service("a", "10.0.0.1")), ("2.yaml", &service("b", "10.0.0.2"))]);
    bench.expect(&["reset", "+default/a 10.0.0.1", "+default/b 10.0.0.2", "synced"]).await;
    fs::remove_dir_all(&bench.directory).expect("removed");
    bench.reported("manifests", "the last good state is kept").await;
    fs::create_dir(&bench.directory).expect("made");
    bench.reported("manifests", "holds no manifest: the last good state is kept").await;
    bench.write("1.yaml", &service("a", "10.0.0.9"));
    bench.expect(&["+default/a 10.0.0.9", "-default/b"]).await;
    bench.all_clear().await;
    bench.remove("1.yaml");
    bench.write("notes.yaml", "kind: Note\n");
    bench.reported("manifests", "holds no object of the mesh: the last good state is kept").await;
    bench.nothing_more();
    fs::rename(&bench.directory, bench.root.path().join("away")).expect("renamed");
    bench.reported("manifests", "cannot be read").await;
    fs::create_dir(&bench.directory).expect("made");
    bench.write("1.yaml", &service("c", "10.0.0.3"));
    bench.expect(&["+default/c 10.0.0.3", "-default/a"]).await;
}

#[tokio::test]
async fn a_large_directory_that_is_removed_file_by_file_keeps_everything() {
    let files: Vec<_> = (0..1000)
        .map(|number| (format!("{number}.yaml"), service(&format!("s{number}"), "10.0.0.1")))
        .collect();
    let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let mut bench = Bench::new(&files);
    while bench.next().await != "synced" {}
    fs::remove_dir_all(&bench.directory).expect("removed");
    bench.reported("manifests", "cannot be read").await;
    bench.nothing_more();
}

#[tokio::test]
async fn a_rescan_confirms_the_listing_once_and_sees_behind_links() {
    let root = tempfile::tempdir().expect("a directory");
    let directory = root.path().join("manifests");
    fs::create_dir(&directory).expect("made");
    write(root.path(), "behind.yaml", &service("a", "10.0.0.1"));
    symlink("../behind.yaml", directory.join("1.yaml")).expect("linked");
    let mut bench = Bench::start(root, directory, Some(Duration::from_millis(10)));
    let listing = ["reset", "+default/a 10.0.0.1", "synced"];
    bench.expect(&listing).await;
    bench.expect(&listing).await;
    write(bench.root.path(), "behind.yaml", &service("a", "10.0.0.2"));
    bench.expect(&["+default/a 10.0.0.2"]).await;
}

#[tokio::test]
async fn a_directory_that_does_not_exist_yet_is_waited_for() {
    let mut bench = Bench::new(&[]);
    bench.reported("manifests", "there is nothing to serve yet").await;
    fs::create_dir(&bench.directory).expect("made");
    bench.write("1.yaml", &service("a", "10.0.0.1"));
    bench.expect(&["reset", "+default/a 10.0.0.1", "synced"]).await;
    bench.all_clear().await;
}

#[tokio::test]
async fn there_is_no_complete_listing_while_a_file_was_never_whole() {
    let mut bench =
        Bench::new(&[("1.yaml", &service("a", "10.0.0.1")), ("2.yaml", "{apiVersion: v1, kind: Ser\n")]);
    bench.expect(&["+default/a 10.0.0.1"]).await;
    bench.reported("2.yaml:2 document", "is no YAML").await;
    bench.write("2.yaml", &service("b", "10.0.0.2"));
    bench.expect(&["reset", "+default/a 10.0.0.1", "+default/b 10.0.0.2", "synced"]).await;
}

#[tokio::test]
async fn the_last_file_by_name_wins() {
    let twice = format!("{}---\n{}", service("b", "10.0.1.1"), service("b", "10.0.1.2"));
    let (a, other) = (service("a", "10.0.0.1"), service("a", "10.0.0.2"));
    let mut bench = Bench::new(&[("1.yaml", &a), ("2.yaml", &other), ("3.yaml", &twice)]);
    bench.expect(&["reset", "+default/a 10.0.0.2", "+default/b 10.0.1.2", "synced"]).await;
    bench.reported("2.yaml:1 Service default/a", "defined in 1.yaml too").await;
    bench.reported("3.yaml:3 Service default/b", "defined in line 1 too").await;
    bench.remove("2.yaml");
    bench.expect(&["+default/a 10.0.0.1"]).await;
}

#[tokio::test]
async fn what_is_no_file_or_too_large_is_reported() {
    let mut bench = Bench::new(&[("1.yaml", &service("a", "10.0.0.1"))]);
    bench.expect(&["reset", "+default/a 10.0.0.1", "synced"]).await;
    let large = fs::File::create(bench.directory.join("large.yaml")).expect("made");
    large.set_len((16 << 20) + 1).expect("sized");
    drop(large);
    fs::create_dir(bench.directory.join("dir.yaml")).expect("made");
    symlink("nowhere", bench.directory.join("dangling.yaml")).expect("linked");
    bench.reported("large.yaml", "larger than 16 MiB").await;
    bench.reported("dir.yaml", "no regular file").await;
    bench.reported("dangling.yaml", "cannot be read").await;
    bench.nothing_more();
}

#[tokio::test]
async fn the_source_ends_when_nobody_listens() {
    let mut bench = Bench::new(&[("1.yaml", &service("a", "10.0.0.1"))]);
    bench.expect(&["reset", "+default/a 10.0.0.1", "synced"]).await;
    bench.events.close();
    let source = std::mem::replace(&mut bench.source, tokio::spawn(async {}));
    timeout(DEADLINE, source).await.expect("in time").expect("no panic");
}
