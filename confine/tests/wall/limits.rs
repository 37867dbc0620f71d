//! Resource limits, as the kernel has them after the wall is up.

use crate::WALLS;
use crate::child::{End, run_plainly};
use confine::policy::LimitKind;
use confine::walls::limit;
use nix::sys::resource::{getrlimit, setrlimit};

pub fn limits_are_those_of_the_policy() {
    for wall in WALLS {
        let raised = || {
            limit(wall).unwrap();
            assert_eq!(getrlimit(LimitKind::RLIMIT_CORE).unwrap(), (0, 0));
            for limit in wall.limits {
                let (soft, hard) = getrlimit(limit.resource).unwrap();
                assert_eq!(soft, hard, "{:?}", limit.resource);
                assert!(hard <= limit.value, "{:?}", limit.resource);
            }
            0
        };
        assert_eq!(run_plainly(raised), End::Exit(0), "{}", wall.role);
        let lowered_first = || {
            for limit in wall.limits {
                setrlimit(limit.resource, limit.value / 2, limit.value / 2).unwrap();
            }
            limit(wall).unwrap();
            for limit in wall.limits {
                assert_eq!(getrlimit(limit.resource).unwrap(), (limit.value / 2, limit.value / 2));
            }
            0
        };
        assert_eq!(run_plainly(lowered_first), End::Exit(0), "{}", wall.role);
    }
}
