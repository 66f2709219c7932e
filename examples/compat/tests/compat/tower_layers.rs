//! tower's layers, asked by curl: the limit and the time.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{curl, example, find, free_address, get, start};

#[test]
fn requests_beyond_the_limit_are_refused_and_slow_ones_cut_short() {
    if find("curl").is_none() {
        return;
    }
    let address = free_address();
    let mut command = example(env!("CARGO_BIN_EXE_tower-layers"));
    let server = start(command.args(["--listen", &address, "--limit", "2"])).until_open(&address);
    let url = |path: &str| format!("http://{address}{path}");
    assert_eq!(get(&[&url("/5")]), "5 ms\n 200 1.1");
    assert_eq!(get(&[&url("/7000")]), " 504 1.1");

    // Requests that fill the limit, until the one that is too many has been refused.
    let begin = Instant::now();
    let refused = loop {
        let slow = [0, 1].map(|_| {
            let mut slow = Command::new("curl");
            slow.args(["-sS", "--max-time", "10", &url("/900")]).stdout(Stdio::null());
            slow.spawn().expect("curl was found")
        });
        let refused = (0..40).find_map(|_| {
            std::thread::sleep(Duration::from_millis(15));
            let head = String::from_utf8(curl(&["-i", &url("/0")]).stdout).expect("text");
            head.contains(" 503 ").then_some(head)
        });
        for mut slow in slow {
            assert!(slow.wait().expect("a child").success());
        }
        match refused {
            Some(head) => break head,
            None => assert!(begin.elapsed() < Duration::from_secs(20), "none was refused"),
        }
    };
    assert!(refused.contains("retry-after: 1\r\n"), "{refused}");
    assert!(refused.ends_with("overloaded\n"), "{refused}");
    // And the limit is free again.
    assert_eq!(get(&["--http2-prior-knowledge", &url("/1")]), "1 ms\n 200 2");
    server.terminate();
}
