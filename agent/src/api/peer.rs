//! Who is at the other end of the socket, and what that person may do.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use nix::unistd::{Group, Uid, User};
use tokio::net::UnixListener;

/// Members of this group are engineers.
const ENGINEERS: &str = "millrace";

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Nothing.
    Stranger,
    /// All but what could cost data or open doors.
    Engineer,
    /// All.
    Admin,
}

/// The caller of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// Its user id; `None` where the kernel does not say.
    pub(crate) uid: Option<u32>,
    /// What it may do.
    pub(crate) role: Role,
}

impl Peer {
    /// For the audit.
    pub(crate) fn named(&self) -> String {
        match self.uid {
            Some(uid) => format!("uid {uid}"),
            None => "unknown uid".to_owned(),
        }
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let uid = stream
            .io()
            .peer_cred()
            .ok()
            .map(|credentials| credentials.uid());
        let role = uid.map_or(Role::Stranger, |uid| {
            role(Uid::from_raw(uid), Uid::effective())
        });
        Self { uid, role }
    }
}

fn role(uid: Uid, service: Uid) -> Role {
    if uid.is_root() || uid == service {
        Role::Admin
    } else if is_engineer(uid) {
        Role::Engineer
    } else {
        Role::Stranger
    }
}

/// Looked up at each connection: a membership that was just granted counts at once.
fn is_engineer(uid: Uid) -> bool {
    let Ok(Some(group)) = Group::from_name(ENGINEERS) else {
        return false;
    };
    let Ok(Some(user)) = User::from_uid(uid) else {
        return false;
    };
    user.gid == group.gid || group.mem.contains(&user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_service_user_are_admin_and_nobody_is_not() {
        let service = Uid::from_raw(990);
        assert_eq!(role(Uid::from_raw(0), service), Role::Admin);
        assert_eq!(role(service, service), Role::Admin);
        assert_eq!(role(Uid::from_raw(65_534), service), Role::Stranger);
        assert!(Role::Stranger < Role::Engineer && Role::Engineer < Role::Admin);
    }
}
