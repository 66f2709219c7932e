//! The blocks of a pcapng file (draft-ietf-opsawg-pcapng), in the machine's byte order, with
//! time stamps in nanoseconds. Each is appended to a buffer as a whole.

/// The direction of a frame, as the flags of its block say it (4.3.1).
#[derive(Clone, Copy)]
pub(crate) enum Direction {
    In = 1,
    Out = 2,
}

/// Section header block, 4.1.
pub(crate) fn section_header(out: &mut Vec<u8>) {
    block(out, 0x0a0d_0d0a, |out| {
        out.extend(0x1a2b_3c4d_u32.to_ne_bytes());
        out.extend(1u16.to_ne_bytes());
        out.extend(0u16.to_ne_bytes());
        out.extend((-1i64).to_ne_bytes());
        option(out, 4, b"throng");
        end_of_options(out);
    });
}

/// Interface description block, 4.2. `snaplen`: most bytes of a frame that are kept, 0: all.
pub(crate) fn interface(out: &mut Vec<u8>, name: &str, snaplen: u32) {
    block(out, 1, |out| {
        out.extend(1u16.to_ne_bytes()); // LINKTYPE_ETHERNET
        out.extend(0u16.to_ne_bytes());
        out.extend(snaplen.to_ne_bytes());
        option(out, 2, name.as_bytes());
        option(out, 9, &[9]); // time stamps in 10^-9 s
        end_of_options(out);
    });
}

/// Enhanced packet block, 4.3, of at most `snaplen` bytes of `frame`. `time`: nanoseconds
/// since 1970.
pub(crate) fn packet(
    out: &mut Vec<u8>,
    interface: u32,
    direction: Direction,
    time: u64,
    frame: &[u8],
    snaplen: usize,
) {
    let kept = &frame[..frame.len().min(snaplen)];
    block(out, 6, |out| {
        out.extend(interface.to_ne_bytes());
        out.extend(((time >> 32) as u32).to_ne_bytes());
        out.extend((time as u32).to_ne_bytes());
        out.extend((kept.len() as u32).to_ne_bytes());
        out.extend((frame.len() as u32).to_ne_bytes());
        out.extend(kept);
        pad(out);
        option(out, 2, &(direction as u32).to_ne_bytes());
        end_of_options(out);
    });
}

fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    // Everything is padded to four bytes from the block's start.
    debug_assert!(out.len().is_multiple_of(4), "blocks begin at multiples of four");
    let start = out.len();
    out.extend(kind.to_ne_bytes());
    out.extend([0; 4]);
    body(out);
    let length = ((out.len() - start) as u32 + 4).to_ne_bytes();
    out.extend(length);
    out[start + 4..start + 8].copy_from_slice(&length);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_ne_bytes());
    out.extend((value.len() as u16).to_ne_bytes());
    out.extend(value);
    pad(out);
}

fn end_of_options(out: &mut Vec<u8>) {
    out.extend([0; 4]);
}
