//! Two runtimes over the memory device, captured while they talk.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use throng_net::pcap::{End, Options, start};
use throng_net::{Builder, IdlePolicy, ShardId, TcpListener, TcpStream};
use throng_runtime::{current_shard, sleep, spawn_local};

/// Runs `client` on shard 0 of one runtime, and a server on both shards of another that
/// echoes on port 7 and takes everything on port 9.
fn with_server<F: Future<Output = ()> + 'static>(link: &str, client: impl Fn() -> F + Send + Sync) {
    let done = Arc::new(AtomicBool::new(false));
    let ended = done.clone();
    let builder = |address: &str| {
        let adaptive = IdlePolicy::Adaptive {
            spin: Duration::from_micros(20),
            pause: Duration::from_micros(100),
        };
        Builder::new().device(format!("memory:{link}")).address(address).idle(adaptive)
    };
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            builder("10.0.0.1/24").shards(2).run(|_| {
                spawn_local(serve(7)).detach();
                spawn_local(serve(9)).detach();
                let ended = ended.clone();
                async move {
                    while !ended.load(Ordering::Acquire) {
                        sleep(Duration::from_millis(5)).await;
                    }
                }
            })
        });
        // A failed client must not leave the server running.
        let outcome = scope.spawn(|| {
            builder("10.0.0.2/24").shards(2).run(|shard| {
                let future = (shard == ShardId(0)).then(&client);
                async move {
                    if let Some(future) = future {
                        future.await;
                    }
                }
            })
        });
        let outcome = outcome.join();
        done.store(true, Ordering::Release);
        server.join().expect("the server").expect("its network");
        outcome.expect("the client").expect("its network");
    });
}

async fn serve(port: u16) {
    let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        spawn_local(async move {
            while let Ok(chunk) = stream.read_chunk(65_536).await {
                if chunk.is_empty() || (port == 7 && stream.write_chunk(chunk).await.is_err()) {
                    break;
                }
            }
        })
        .detach();
    }
}

async fn connect(port: u16) -> TcpStream {
    TcpStream::connect(SocketAddr::from(([10, 0, 0, 1], port))).await.unwrap()
}

/// Sends so many bytes to `port` 7 and reads them back.
async fn echo(bytes: usize) {
    let mut stream = connect(7).await;
    let (mut sent, mut back) = (0, 0);
    while back < bytes {
        // With more on its way both sides would wait for the other to read.
        if sent < bytes && sent - back < 65_536 {
            let chunk: Vec<u8> = (sent..bytes.min(sent + 16_384)).map(|at| at as u8).collect();
            sent += chunk.len();
            stream.write_chunk(chunk.into()).await.unwrap();
        }
        let chunk = stream.read_chunk(65_536).await.unwrap();
        assert!(!chunk.is_empty(), "cut off at {back}");
        for byte in &chunk[..] {
            assert_eq!(*byte, back as u8, "at {back}");
            back += 1;
        }
    }
}

fn file(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("throng-{}-{name}.pcapng", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

/// The fields of every packet, by tshark; fails where it finds the file broken.
fn tshark(path: &PathBuf, fields: &[&str]) -> Option<Vec<Vec<String>>> {
    if !super::has("tshark") {
        return None;
    }
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(path).args(["-T", "fields", "-E", "separator=;"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("cut short"), "{said}");
    let lines = String::from_utf8(output.stdout).unwrap();
    Some(lines.lines().map(|line| line.split(';').map(str::to_owned).collect()).collect())
}

#[test]
fn the_chosen_packets_and_no_others() {
    with_server("capture-chosen", || async {
        let path = file("chosen");
        let filter = Some("tcp port 7".parse().unwrap());
        let options = Options { filter, snaplen: 100, ..Options::default() };
        echo(1_000).await;
        let capture = start(&[], &path, options.clone()).await.unwrap();
        let error = start(&[ShardId(0)], file("second"), options.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert!(!file("second").exists());
        let begun = std::time::SystemTime::now();
        let mut other = connect(9).await;
        other.write_chunk(vec![0; 5_000].into()).await.unwrap();
        echo(100_000).await;
        sleep(Duration::from_millis(20)).await;
        assert_eq!(capture.status().end, None);
        let status = capture.stop().await;
        assert_eq!((status.end.clone(), status.missed), (Some(End::Stopped), 0));
        let size = std::fs::metadata(&path).unwrap().len();
        assert_eq!(size, status.bytes);
        echo(1_000).await;
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size, "it is over");

        let fields = ["tcp.srcport", "tcp.dstport", "frame.len", "frame.cap_len", "tcp.len"];
        let more = ["frame.packet_flags_direction", "frame.time_epoch", "frame.interface_name"];
        let Some(lines) = tshark(&path, &[&fields[..], &more].concat()) else { return };
        assert_eq!(lines.len() as u64, status.packets);
        let mut payload = [0, 0];
        for line in &lines {
            let number = |at: usize| line[at].parse::<usize>().unwrap();
            assert!(number(0) == 7 || number(1) == 7, "{line:?}");
            assert_eq!(number(3), number(2).min(100), "{line:?}");
            let inward = line[5] == "0x00000001" || line[5] == "1";
            assert_eq!(inward, number(0) == 7, "{line:?}");
            payload[usize::from(inward)] += number(4);
            let time = line[6].parse::<f64>().unwrap();
            let since = time - begun.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
            assert!((-1.0..60.0).contains(&since), "{line:?}");
            assert!(line[7].starts_with("shard "), "{line:?}");
        }
        assert!(payload.iter().all(|sum| *sum >= 100_000), "{payload:?}");
        // The next one begins where the last has ended.
        let again = file("again");
        let capture = start(&[current_shard()], &again, options.clone()).await.unwrap();
        let error = start(&[ShardId(1)], &again, options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        drop(capture);
        let _ = (std::fs::remove_file(path), std::fs::remove_file(again));
    });
}

#[test]
fn limits_end_it_where_they_say() {
    with_server("capture-limits", || async {
        let path = file("bytes");
        let options = Options { bytes: 50_000, ..Options::default() };
        let capture = start(&[], &path, options).await.unwrap();
        echo(300_000).await;
        let status = capture.ended().await;
        assert_eq!(status.end, Some(End::Bytes));
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(size == status.bytes && (40_000..=50_000).contains(&size), "{size}, {status:?}");
        if let Some(lines) = tshark(&path, &["frame.number"]) {
            assert_eq!(lines.len() as u64, status.packets);
        }

        let path = file("packets");
        let options = Options { packets: 9, ..Options::default() };
        let capture = start(&[], &path, options).await.unwrap();
        echo(100_000).await;
        let status = capture.ended().await;
        assert_eq!((status.end, status.packets), (Some(End::Packets), 9));
        if let Some(lines) = tshark(&path, &["frame.number"]) {
            assert_eq!(lines.len(), 9);
        }

        // Nothing passes, so only the writer looks at the time.
        let path = file("duration");
        let filter = Some("arp and tcp".parse().unwrap());
        let duration = Duration::from_millis(50);
        let options = Options { filter, duration, ..Options::default() };
        let status = start(&[], &path, options).await.unwrap().ended().await;
        assert_eq!((status.end, status.packets), (Some(End::Duration), 0));

        for options in [
            Options { bytes: 100, ..Options::default() },
            Options { packets: 0, ..Options::default() },
            Options { snaplen: 0, ..Options::default() },
        ] {
            let error = start(&[], file("nothing"), options).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
        let shards = [ShardId(0), ShardId(7)];
        let error = start(&shards, file("nothing"), Options::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(!file("nothing").exists());
        for name in ["bytes", "packets", "duration"] {
            let path = std::env::temp_dir();
            let path = path.join(format!("throng-{}-{name}.pcapng", std::process::id()));
            let _ = std::fs::remove_file(path);
        }
    });
}

#[test]
fn load_passes_unharmed_and_every_packet_is_accounted_for() {
    with_server("capture-load", || async {
        let path = file("load");
        let options = Options { bytes: 1 << 30, ..Options::default() };
        let capture = start(&[], &path, options).await.unwrap();
        let transfers: Vec<_> = (0..4).map(|_| spawn_local(echo(4_000_000))).collect();
        for transfer in transfers {
            transfer.await.unwrap();
        }
        let status = capture.stop().await;
        assert_eq!(status.end, Some(End::Stopped));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), status.bytes);
        println!("{status:?}");
        assert!(status.packets > 2 * 4 * 4_000_000 / 65_536);
        if let Some(lines) = tshark(&path, &["tcp.len"]) {
            assert_eq!(lines.len() as u64, status.packets);
            let payload: usize =
                lines.iter().filter_map(|line| line[0].parse::<usize>().ok()).sum();
            assert!(status.missed > 0 || payload >= 2 * 4 * 4_000_000, "{payload}, {status:?}");
        }
        let _ = std::fs::remove_file(path);
    });
}

#[test]
fn the_hosts_own_sockets_cannot_be_captured() {
    let outcome = Builder::new().shards(1).run(|_| async {
        let error = start(&[], file("kernel"), Options::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    });
    outcome.unwrap();
}
