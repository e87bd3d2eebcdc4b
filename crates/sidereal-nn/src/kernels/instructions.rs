//! What the processor can do, found out once, and loops that are compiled for several kinds of it.

use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// Sets of instructions that kernels are written for, each with all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Instructions {
    /// What every processor of the target has.
    Portable = 1,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The dot product of bytes (VNNI).
    Avx512Vnni,
    /// The dot product of bf16.
    Avx512Bf16,
}

/// What [`Instructions::current`] answers, 0 before it is known.
static CURRENT: AtomicU8 = AtomicU8::new(0);

impl Instructions {
    /// All of them, the least first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Vnni, Self::Avx512Bf16];

    /// The name in figures and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512vnni",
            Self::Avx512Bf16 => "avx512bf16",
        }
    }

    /// What this processor has.
    pub(super) fn of_processor() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if !(has!("avx2") && has!("fma")) {
                return Self::Portable;
            }
            if !(has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")) {
                return Self::Avx2;
            }
            match (has!("avx512vnni"), has!("avx512bf16")) {
                (false, _) => Self::Avx512,
                (true, false) => Self::Avx512Vnni,
                (true, true) => Self::Avx512Bf16,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::Portable
    }

    /// What kernels may use: what the processor has, or less ([`Instructions::limit`]).
    #[inline]
    pub fn current() -> Self {
        let known = CURRENT.load(Ordering::Relaxed);
        match Self::ALL.get(usize::from(known).wrapping_sub(1)) {
            Some(&current) => current,
            None => Self::limit(Self::Avx512Bf16),
        }
    }

    /// Lets kernels use no more than `most` from now on, in the whole process; what they may use then.
    ///
    /// For tests and measurements of what other processors do. What was packed before keeps its kernels.
    pub fn limit(most: Self) -> Self {
        let current = most.min(Self::of_processor());
        CURRENT.store(current as u8, Ordering::Relaxed);
        current
    }
}

impl FromStr for Instructions {
    type Err = sidereal_core::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|one| one.name() == text).ok_or_else(|| {
            sidereal_core::Error::config(
                "instructions",
                format!("none is called {text:?}"),
                "use portable, avx2, avx512, avx512vnni or avx512bf16",
            )
        })
    }
}

/// Compiles a function for any processor, for AVX2 and for AVX-512, and chooses at run time. Products and sums are never
/// contracted, and a sum keeps the order that the source gives it, so all give the same bytes.
#[macro_export]
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[inline]
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn portable($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::kernels::Instructions;
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                let current = Instructions::current();
                if current >= Instructions::Avx512 {
                    // SAFETY: the processor has these four sets, or they would not be current.
                    return unsafe { avx512($($arg),*) };
                }
                if current >= Instructions::Avx2 {
                    // SAFETY: the processor has AVX2, or it would not be current.
                    return unsafe { avx2($($arg),*) };
                }
            }
            portable($($arg),*)
        }
    };
}
pub use vectorised;

/// The sum of lanes, N a power of two: halves are added until one is left.
#[inline(always)]
pub fn sum_of_lanes<const N: usize>(mut lanes: [f32; N]) -> f32 {
    let mut half = N / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}
