#![expect(unsafe_code, reason = "packet sockets need an address and options that no safe interface offers")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// `struct virtio_net_hdr` (linux/virtio_net.h): flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
const VNET_HEADER: usize = 10;
/// Offset of `gso_size`, in the machine's byte order.
const GSO_SIZE: usize = 4;
/// The largest frame: a 64 KiB packet (the limit of segmentation offload without BIG TCP), an Ethernet header with two
/// VLAN tags, and the header above; rounded up.
const FRAME: usize = (64 << 10) + 64;

/// A socket that reads and writes whole frames at one device.
#[derive(Debug)]
pub struct Port {
    socket: Socket,
}

impl Port {
    /// Opens the device of the calling thread's network namespace that has this index.
    pub fn open(device: u32) -> io::Result<Self> {
        // Protocol 0 receives nothing until the socket is bound to its device.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?;
        set_option(&socket, libc::PACKET_VNET_HDR)?;
        set_option(&socket, libc::PACKET_IGNORE_OUTGOING)?;
        socket.bind(&link_address(device)?)?;
        // As much as the kernel grants: the receive queue is what absorbs a burst while the thread sleeps.
        drop(socket.set_recv_buffer_size(4 << 20));
        drop(socket.set_send_buffer_size(4 << 20));
        Ok(Self { socket })
    }

    /// Takes one frame; `false` when none waits.
    pub(super) fn receive(&self, frame: &mut Frame) -> io::Result<bool> {
        loop {
            return match self.socket.recv_with_flags(&mut frame.buffer, libc::MSG_TRUNC) {
                // A frame that did not fit cannot be passed on as it was.
                Ok(length) if length > FRAME || length <= VNET_HEADER => continue,
                Ok(length) => {
                    frame.length = length;
                    Ok(true)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// Sends one frame; `false` when the device does not take it.
    pub(super) fn send(&self, bytes: &[u8]) -> bool {
        self.socket.send(bytes).is_ok()
    }
}

/// The place one received frame lies in, virtio header first.
pub(super) struct Frame {
    buffer: Box<[MaybeUninit<u8>]>,
    length: usize,
}

impl Frame {
    pub(super) fn new() -> Self {
        Self { buffer: vec![MaybeUninit::new(0); FRAME].into_boxed_slice(), length: 0 }
    }

    /// Header and frame.
    pub(super) fn bytes(&self) -> &[u8] {
        let filled = &self.buffer[..self.length];
        // SAFETY: the whole buffer was initialised when it was made, and receiving only overwrites it.
        unsafe { std::slice::from_raw_parts(filled.as_ptr().cast(), filled.len()) }
    }

    /// Bytes on the line.
    pub(super) fn length(&self) -> u64 {
        Self::length_of(self.bytes())
    }

    pub(super) fn length_of(bytes: &[u8]) -> u64 {
        (bytes.len() - VNET_HEADER) as u64
    }

    /// How many segments it becomes on a real line.
    pub(super) fn segments(&self) -> i32 {
        let bytes = self.bytes();
        let size = usize::from(u16::from_ne_bytes([bytes[GSO_SIZE], bytes[GSO_SIZE + 1]]));
        if size == 0 {
            1
        } else {
            i32::try_from((bytes.len() - VNET_HEADER).div_ceil(size)).unwrap_or(i32::MAX)
        }
    }
}

/// Wakes the thread from outside.
pub(super) struct Doorbell {
    event: OwnedFd,
}

impl Doorbell {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no memory; a descriptor it returns belongs to nobody else.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        Ok(Self { event: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    pub(super) fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is eight bytes long, as eventfd(2) asks. A full counter has rung already.
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

/// Waits until a port has a frame, the bell rings or `patience` is over; fills in the ports that are readable.
pub(super) fn wait(
    ports: &[Port],
    doorbell: &Doorbell,
    patience: Option<Duration>,
    readable: &mut Vec<usize>,
) -> io::Result<()> {
    let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut entries: Vec<libc::pollfd> = ports.iter().map(|port| entry(port.socket.as_raw_fd())).collect();
    entries.push(entry(doorbell.event.as_raw_fd()));
    let timeout = patience.map(|patience| {
        // SAFETY: timespec is plain numbers (and padding on some platforms), for which zero is a value.
        let mut timeout: libc::timespec = unsafe { std::mem::zeroed() };
        timeout.tv_sec = patience.as_secs().min(3600) as libc::time_t;
        timeout.tv_nsec = patience.subsec_nanos() as libc::c_long;
        timeout
    });
    let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: entries is valid for its length, timeout is null or a valid timespec, the signal mask is absent.
    let ready = unsafe {
        libc::ppoll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, timeout, std::ptr::null())
    };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
    }
    readable.extend(
        entries[..ports.len()].iter().enumerate().filter(|(_, entry)| entry.revents != 0).map(|(n, _)| n),
    );
    Ok(())
}

fn set_option(socket: &Socket, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the value is one int that outlives the call, and length says so.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn link_address(device: u32) -> io::Result<SockAddr> {
    let index = i32::try_from(device).map_err(io::Error::other)?;
    // SAFETY: the storage is larger than sockaddr_ll and aligned for every address; all fields read are written.
    let (_, address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let address = storage.cast::<libc::sockaddr_ll>();
            (*address).sll_family = libc::AF_PACKET as libc::c_ushort;
            (*address).sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            (*address).sll_ifindex = index;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    Ok(address)
}
