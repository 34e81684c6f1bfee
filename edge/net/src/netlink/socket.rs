//! The socket: requests with their acknowledgement, dumps, and transactions.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::NetlinkError;
use super::message::{Attrs, HEADER_LEN, Message, MessageBuf, Messages, read_u32};

/// The kernel answers within the sending call, so this only ends what would otherwise hang for ever.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The kernel builds dump messages of at most 32 KiB (`netlink_dump`), and a single message is bounded by its
/// attributes' 64 KiB.
const RECEIVE_BUFFER: usize = 128 * 1024;

/// How often a dump that the kernel marks as interrupted is repeated; each repetition is one change by somebody
/// else during a read of a few milliseconds.
const DUMP_ATTEMPTS: usize = 8;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSGERR_ATTR_OFFS: u16 = 2;

/// One netlink socket. It belongs to one thread at a time, hence `&mut self` everywhere.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    socket: Socket,
    seq: u32,
    buffer: Vec<u8>,
}

/// What the kernel says of one message.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) seq: u32,
    /// Zero for an acknowledgement.
    pub(crate) errno: i32,
    pub(crate) detail: String,
    /// Where in the refused message the offending attribute starts.
    pub(crate) offset: Option<usize>,
}

impl NetlinkSocket {
    pub(crate) fn open(protocol: i32) -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let socket =
                Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(protocol)))?;
            socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            Ok(socket)
        };
        let socket = open().map_err(NetlinkError::Socket)?;
        // All three are comforts that older kernels lack: words with an error, short acknowledgements, and dumps
        // that the kernel filters.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK] {
            if let Err(error) = set_option(&socket, libc::SOL_NETLINK, option, 1) {
                tracing::debug!(option, %error, "netlink socket option is not available");
            }
        }
        Ok(Self { socket, seq: 0, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// The address by which the kernel tells this socket from others; there is none before the first request.
    #[expect(unsafe_code, reason = "getsockname for an address family that socket2 does not know")]
    pub(crate) fn port(&self) -> io::Result<u32> {
        // SAFETY: all zeros is a valid sockaddr_nl.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        let mut length = libc::socklen_t::try_from(size_of::<libc::sockaddr_nl>()).expect("twelve fits");
        // SAFETY: the descriptor is open for the length of the call, and the pointer and length describe `address`.
        let result = unsafe {
            libc::getsockname(
                self.socket.as_raw_fd(),
                std::ptr::from_mut(&mut address).cast(),
                &raw mut length,
            )
        };
        if result == 0 { Ok(address.nl_pid) } else { Err(io::Error::last_os_error()) }
    }

    pub(crate) fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }

    /// Makes room to send `bytes` in one call; false when the limits of the host forbid it.
    pub(crate) fn reserve_send(&self, bytes: usize) -> bool {
        // The kernel doubles the value for its own bookkeeping and compares the message with the doubled value
        // (`netlink_sendmsg`); forcing needs CAP_NET_ADMIN in the initial namespace.
        let fits = || self.socket.send_buffer_size().is_ok_and(|size| size >= bytes + 64);
        if fits() {
            return true;
        }
        let Ok(wanted) = i32::try_from(bytes) else { return false };
        if set_option(&self.socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted).is_err() {
            let _ = self.socket.set_send_buffer_size(bytes);
        }
        fits()
    }

    /// Sends one request and waits for its acknowledgement.
    pub(crate) fn request(
        &mut self,
        what: &dyn Fn() -> String,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        body: impl FnOnce(&mut MessageBuf),
    ) -> Result<(), NetlinkError> {
        let seq = self.next_seq();
        let mut message = MessageBuf::default();
        message.message(kind, flags | NLM_F_REQUEST | NLM_F_ACK, seq, fixed, body);
        self.socket.send(message.as_slice()).map_err(NetlinkError::Socket)?;
        loop {
            let len = self.receive(what)?;
            for message in Messages(&self.buffer[..len]).filter(|message| message.seq == seq) {
                if let Some(answer) = answer(message) {
                    return answer.into_result(what);
                }
            }
        }
    }

    /// Sends one request that is answered with a message, and gives that message's payload.
    pub(crate) fn ask(
        &mut self,
        what: &dyn Fn() -> String,
        kind: u16,
        fixed: &[u8],
        body: impl FnOnce(&mut MessageBuf),
    ) -> Result<Vec<u8>, NetlinkError> {
        let seq = self.next_seq();
        let mut message = MessageBuf::default();
        message.message(kind, NLM_F_REQUEST | NLM_F_ACK, seq, fixed, body);
        self.socket.send(message.as_slice()).map_err(NetlinkError::Socket)?;
        let mut reply = Vec::new();
        loop {
            let len = self.receive(what)?;
            for message in Messages(&self.buffer[..len]).filter(|message| message.seq == seq) {
                match answer(message) {
                    Some(answer) => return answer.into_result(what).map(|()| reply),
                    None => reply = message.payload.to_vec(),
                }
            }
        }
    }

    /// Sends a dump request and collects what `each` makes of every message; starts over when the kernel says
    /// that its state changed meanwhile.
    pub(crate) fn dump<T>(
        &mut self,
        what: &dyn Fn() -> String,
        kind: u16,
        fixed: &[u8],
        body: impl Fn(&mut MessageBuf),
        each: impl Fn(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            if self.stream(what, kind, fixed, &body, |kind, payload| found.extend(each(kind, payload)))? {
                return Ok(found);
            }
        }
        Err(NetlinkError::Unsettled { what: what() })
    }

    /// Sends a dump request and gives `each` every message as it comes, so that the whole is never in memory. False
    /// when the kernel says that its state changed meanwhile: then some may be missing and others come twice.
    pub(crate) fn stream(
        &mut self,
        what: &dyn Fn() -> String,
        kind: u16,
        fixed: &[u8],
        body: impl Fn(&mut MessageBuf),
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<bool, NetlinkError> {
        let seq = self.next_seq();
        let mut message = MessageBuf::default();
        message.message(kind, NLM_F_REQUEST | NLM_F_DUMP, seq, fixed, &body);
        self.socket.send(message.as_slice()).map_err(NetlinkError::Socket)?;
        let mut interrupted = false;
        loop {
            let len = self.receive(what)?;
            for message in Messages(&self.buffer[..len]).filter(|message| message.seq == seq) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE => {
                        let status = read_u32(message.payload).map_or(0, u32::cast_signed);
                        if status < 0 && status != -libc::EINTR {
                            let refused = Answer { seq, errno: -status, detail: String::new(), offset: None };
                            return refused.into_result(what).map(|()| false);
                        }
                        return Ok(!interrupted && status == 0);
                    }
                    NLMSG_ERROR => {
                        if let Some(answer) = answer(message) {
                            if answer.errno == libc::EINTR {
                                return Ok(false);
                            }
                            answer.into_result(what)?;
                        }
                    }
                    kind => each(kind, message.payload),
                }
            }
        }
    }

    /// Sends a batch and collects what the kernel says of it, until the message `last` is acknowledged or another
    /// one is refused. The kernel has queued all of its answers when the sending call returns.
    pub(crate) fn transact(
        &mut self,
        what: &dyn Fn() -> String,
        batch: &[u8],
        first: u32,
        last: u32,
    ) -> Result<Option<Answer>, NetlinkError> {
        self.socket.send(batch).map_err(NetlinkError::Socket)?;
        loop {
            let len = self.receive(what)?;
            let mut done = false;
            for message in Messages(&self.buffer[..len]) {
                let Some(answer) = answer(message) else { continue };
                // Answers to an earlier batch that failed in several places.
                if answer.seq.wrapping_sub(first) > last.wrapping_sub(first) {
                    continue;
                }
                if answer.errno != 0 {
                    return Ok(Some(answer));
                }
                done |= answer.seq == last;
            }
            if done {
                return Ok(None);
            }
        }
    }

    /// Sends messages of which each stands for itself, and collects the answers of those that were refused. Only the last,
    /// `last`, asks for an acknowledgement, which the kernel sends after it has looked at all.
    pub(crate) fn each(
        &mut self,
        what: &dyn Fn() -> String,
        messages: &[u8],
        first: u32,
        last: u32,
    ) -> Result<Vec<Answer>, NetlinkError> {
        self.socket.send(messages).map_err(NetlinkError::Socket)?;
        let mut refused = Vec::new();
        loop {
            let len = self.receive(what)?;
            for message in Messages(&self.buffer[..len]) {
                let Some(answer) = answer(message) else { continue };
                if answer.seq.wrapping_sub(first) > last.wrapping_sub(first) {
                    continue;
                }
                let done = answer.seq == last;
                if answer.errno != 0 {
                    refused.push(answer);
                }
                if done {
                    return Ok(refused);
                }
            }
        }
    }

    fn receive(&mut self, what: &dyn Fn() -> String) -> Result<usize, NetlinkError> {
        loop {
            match (&self.socket).read(&mut self.buffer) {
                Ok(len) => return Ok(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(NetlinkError::NoAnswer { what: what() });
                }
                Err(error) => return Err(NetlinkError::Socket(error)),
            }
        }
    }
}

impl Answer {
    pub(crate) fn into_result(self, what: &dyn Fn() -> String) -> Result<(), NetlinkError> {
        if self.errno == 0 {
            return Ok(());
        }
        Err(NetlinkError::Refused { what: what(), errno: self.errno, detail: self.detail, expression: None })
    }
}

/// Reads an acknowledgement or error; `None` for messages of another kind.
fn answer(message: Message<'_>) -> Option<Answer> {
    if message.kind != NLMSG_ERROR {
        return None;
    }
    let errno = -read_u32(message.payload)?.cast_signed();
    let mut answer = Answer { seq: message.seq, errno, detail: String::new(), offset: None };
    if message.flags & NLM_F_ACK_TLVS != 0 {
        // Behind the error number comes the refused message: its header only when capped or acknowledged.
        let original = if message.flags & NLM_F_CAPPED != 0 || errno == 0 {
            HEADER_LEN
        } else {
            usize::try_from(read_u32(message.payload.get(4..)?)?).ok()?
        };
        let attrs = Attrs::after(message.payload, 4 + original);
        answer.detail = attrs.str(NLMSGERR_ATTR_MSG).unwrap_or_default();
        answer.offset = attrs.u32(NLMSGERR_ATTR_OFFS).and_then(|offset| usize::try_from(offset).ok());
    }
    Some(answer)
}

#[expect(unsafe_code, reason = "setsockopt for options that socket2 does not know")]
fn set_option(socket: &Socket, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the call, and the pointer and length describe `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            libc::socklen_t::try_from(size_of::<i32>()).expect("four fits"),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Joins multicast groups, with an address of the kernel's choice: without one the socket passes for the kernel itself,
/// which is not told of what it did.
#[expect(unsafe_code, reason = "bind for an address family that socket2 does not know")]
pub(crate) fn bind_groups(socket: &Socket, groups: u32) -> io::Result<()> {
    // SAFETY: all zeros is a valid sockaddr_nl.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = libc::sa_family_t::try_from(libc::AF_NETLINK).expect("address families are small");
    address.nl_groups = groups;
    // SAFETY: the descriptor is open for the length of the call, and the pointer and length describe `address`.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            libc::socklen_t::try_from(size_of::<libc::sockaddr_nl>()).expect("twelve fits"),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
