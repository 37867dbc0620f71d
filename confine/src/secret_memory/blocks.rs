//! Blocks of the arena: powers of two. A block is split where a smaller one is wanted, and its halves are joined again where
//! memory runs short: what was once many small blocks can become a large one, so that only what is in use counts.
//!
//! What is freed goes to a list of its class and is taken from there first, without a look at its neighbours.

use super::{HEAP, LARGE, PAGE, SMALLEST};
use std::alloc::Layout;
use std::ptr;

pub(super) const CLASSES: usize = (LARGE / SMALLEST).trailing_zeros() as usize;
/// A bit for each place at which a block of a class can begin.
const BITS: usize = 2 * HEAP / SMALLEST;
const WORDS: usize = BITS / 64;

/// What a joined block begins with; the smallest block has room for it. One on a list of its class has the first alone.
#[repr(C)]
struct Links {
    next: *mut u8,
    before: *mut u8,
}

/// All of the heap.
pub(super) struct Blocks {
    base: *mut u8,
    /// Freed blocks of each class.
    freed: [*mut u8; CLASSES],
    /// Blocks whose other half is not free as well, or that are as large as they get.
    joined: [*mut u8; CLASSES],
    /// Where a joined block begins, class by class.
    map: [u64; WORDS],
    left: usize,
}

const fn size_of_class(class: usize) -> usize {
    SMALLEST << class
}

/// Class of a block of this layout: the power of two that holds its size and its alignment. None where it is the system's.
pub(super) fn class(layout: Layout) -> Option<usize> {
    if layout.align() > PAGE {
        return None;
    }
    let size = layout.size().max(layout.align()).max(SMALLEST).checked_next_power_of_two()?;
    let class = (size / SMALLEST).trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}

/// Word and bit of a place in the map.
fn place(class: usize, offset: usize) -> (usize, u64) {
    // Classes below this one have 2n, 4n, ... places of the n that this one has: together no more than BITS.
    let places = HEAP / SMALLEST;
    let first = 2 * places - 2 * (places >> class);
    let bit = first + (offset >> (SMALLEST.trailing_zeros() as usize + class));
    (bit / 64, 1 << (bit % 64))
}

impl Blocks {
    pub(super) const EMPTY: Self = Self {
        base: ptr::null_mut(),
        freed: [ptr::null_mut(); CLASSES],
        joined: [ptr::null_mut(); CLASSES],
        map: [0; WORDS],
        left: 0,
    };

    /// Takes a heap over.
    ///
    /// # Safety
    /// `HEAP` bytes at `base`, which lies on a page, are this one's alone from now on.
    pub(super) unsafe fn take_over(&mut self, base: *mut u8) {
        self.base = base;
        self.left = HEAP;
        let mut offset = 0;
        for class in (0..CLASSES).rev() {
            while HEAP - offset >= size_of_class(class) {
                self.join(class, offset);
                offset += size_of_class(class);
            }
        }
    }

    pub(super) const fn is_made(&self) -> bool {
        !self.base.is_null()
    }

    /// Bytes that are in no block.
    pub(super) const fn left(&self) -> usize {
        self.left
    }

    /// A block of this class; null where there is none.
    pub(super) fn take(&mut self, class: usize) -> *mut u8 {
        let mut block = self.take_freed(class);
        if block.is_null() {
            block = self.split(class);
        }
        if block.is_null() {
            self.gather();
            block = self.split(class);
        }
        if !block.is_null() {
            self.left -= size_of_class(class);
        }
        block
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// It came from [`Blocks::take`] with this class, and its owner gives it up.
    pub(super) unsafe fn give(&mut self, block: *mut u8, class: usize) {
        let Some(head) = self.freed.get_mut(class) else { return };
        // SAFETY: every block has room for an address and is aligned for one, being 32 bytes or more.
        unsafe { block.cast::<*mut u8>().write(*head) };
        *head = block;
        self.left += size_of_class(class);
    }

    fn take_freed(&mut self, class: usize) -> *mut u8 {
        let Some(head) = self.freed.get_mut(class) else { return ptr::null_mut() };
        let block = *head;
        if !block.is_null() {
            // SAFETY: a freed block holds the address of the next, and nobody else has it.
            unsafe {
                *head = block.cast::<*mut u8>().read();
                block.cast::<*mut u8>().write(ptr::null_mut());
            }
        }
        block
    }

    /// A block of this class out of a joined one, whose other parts stay joined blocks.
    fn split(&mut self, class: usize) -> *mut u8 {
        let from = (class..CLASSES).find(|class| self.joined.get(*class).is_some_and(|head| !head.is_null()));
        let Some(from) = from else { return ptr::null_mut() };
        let block = self.joined.get(from).copied().unwrap_or(ptr::null_mut());
        let offset = block as usize - self.base as usize;
        self.unlink(from, offset);
        for half in (class..from).rev() {
            self.link(half, offset + size_of_class(half));
        }
        block
    }

    /// Joins what was freed.
    fn gather(&mut self) {
        for class in 0..CLASSES {
            loop {
                let block = self.take_freed(class);
                if block.is_null() {
                    break;
                }
                self.join(class, block as usize - self.base as usize);
            }
        }
    }

    /// Makes a block a joined one, with every other half that is free.
    fn join(&mut self, mut class: usize, mut offset: usize) {
        while class + 1 < CLASSES {
            let other = offset ^ size_of_class(class);
            if other + size_of_class(class) > HEAP || !self.is_joined(class, other) {
                break;
            }
            self.unlink(class, other);
            offset = offset.min(other);
            class += 1;
        }
        self.link(class, offset);
    }

    fn is_joined(&self, class: usize, offset: usize) -> bool {
        let (word, bit) = place(class, offset);
        self.map.get(word).is_some_and(|word| word & bit != 0)
    }

    fn mark(&mut self, class: usize, offset: usize) {
        let (word, bit) = place(class, offset);
        if let Some(word) = self.map.get_mut(word) {
            *word ^= bit;
        }
    }

    fn link(&mut self, class: usize, offset: usize) {
        self.mark(class, offset);
        let Some(head) = self.joined.get_mut(class) else { return };
        // SAFETY: the block lies within the heap, is free, and has room for two addresses; so has the head of the list, if
        // there is one.
        unsafe {
            let block = self.base.add(offset);
            block.cast::<Links>().write(Links { next: *head, before: ptr::null_mut() });
            if !head.is_null() {
                (*head.cast::<Links>()).before = block;
            }
            *head = block;
        }
    }

    fn unlink(&mut self, class: usize, offset: usize) {
        self.mark(class, offset);
        let Some(head) = self.joined.get_mut(class) else { return };
        // SAFETY: the map had it that a joined block of this class begins here, so it and its neighbours hold links.
        unsafe {
            let block = self.base.add(offset);
            let Links { next, before } = block.cast::<Links>().read();
            block.cast::<Links>().write(Links { next: ptr::null_mut(), before: ptr::null_mut() });
            if !next.is_null() {
                (*next.cast::<Links>()).before = before;
            }
            if before.is_null() {
                *head = next;
            } else {
                (*before.cast::<Links>()).next = next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A heap of its own, and what it lies in.
    fn heap() -> (Box<Blocks>, Vec<u8>) {
        let mut memory = vec![0u8; HEAP + PAGE];
        let at = memory.as_ptr().align_offset(PAGE);
        let mut blocks = Box::new(Blocks::EMPTY);
        // SAFETY: the memory outlives the test that gets both, and nothing else writes to it.
        unsafe { blocks.take_over(memory.as_mut_ptr().add(at)) };
        (blocks, memory)
    }

    /// As many blocks of a class as there are.
    fn all(blocks: &mut Blocks, class: usize) -> Vec<*mut u8> {
        std::iter::repeat_with(|| blocks.take(class)).take_while(|block| !block.is_null()).collect()
    }

    fn give_all(blocks: &mut Blocks, taken: Vec<*mut u8>, class: usize) {
        for block in taken {
            // SAFETY: each was taken with this class, once.
            unsafe { blocks.give(block, class) };
        }
    }

    #[test]
    fn class_holds_size_and_alignment_and_large_blocks_have_none() {
        let class = |size, align| class(Layout::from_size_align(size, align).unwrap());
        assert_eq!((class(1, 1), class(32, 8), class(33, 8)), (Some(0), Some(0), Some(1)));
        assert_eq!(class(8, 128), Some(2));
        assert_eq!(class(LARGE / 2, 8), Some(CLASSES - 1));
        assert_eq!((class(LARGE / 2 + 1, 8), class(64 << 20, 8), class(8, 8192)), (None, None, None));
    }

    #[test]
    fn heap_that_was_used_up_by_blocks_of_each_size_is_whole_again_for_every_other() {
        let (mut blocks, _memory) = heap();
        for class in [0, CLASSES - 1, 3, 11, 0, 7, CLASSES - 1] {
            let taken = all(&mut blocks, class);
            assert_eq!(taken.len(), HEAP / size_of_class(class), "class {class}");
            assert!(blocks.left() < size_of_class(class) && blocks.take(class).is_null());
            give_all(&mut blocks, taken, class);
            assert_eq!(blocks.left(), HEAP);
        }
    }

    #[test]
    fn one_small_block_in_use_costs_no_more_than_the_large_one_around_it() {
        let (mut blocks, _memory) = heap();
        let taken = all(&mut blocks, 0);
        // The last is of a largest block: the smaller rest of the heap is split first.
        let (rest, kept) = taken.split_at(taken.len() - 1);
        give_all(&mut blocks, rest.to_vec(), 0);
        assert_eq!(all(&mut blocks, CLASSES - 1).len(), HEAP / size_of_class(CLASSES - 1) - 1);
        give_all(&mut blocks, kept.to_vec(), 0);
    }

    #[test]
    fn blocks_in_use_never_overlap_whatever_is_taken_and_given() {
        let (mut blocks, _memory) = heap();
        let base = blocks.base as usize;
        let mut taken: BTreeMap<usize, (usize, *mut u8)> = BTreeMap::new();
        let mut dice = 1u64;
        let mut roll = |end: usize| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(dice >> 33).unwrap() % end
        };
        let mut used = 0;
        for _ in 0..200_000 {
            let class = [roll(6), roll(12), roll(CLASSES)][roll(3)];
            if roll(2) == 0 {
                let block = blocks.take(class);
                if block.is_null() {
                    continue;
                }
                let offset = block as usize - base;
                assert!(offset.is_multiple_of(size_of_class(class).min(PAGE)) && offset + size_of_class(class) <= HEAP);
                let before = taken.range(..offset).next_back();
                assert!(before.is_none_or(|(at, (class, _))| at + size_of_class(*class) <= offset));
                assert!(taken.range(offset..).next().is_none_or(|(at, _)| offset + size_of_class(class) <= *at));
                taken.insert(offset, (class, block));
                used += size_of_class(class);
            } else if let Some((offset, (class, block))) = taken.range(roll(HEAP)..).next().map(|(at, of)| (*at, *of)) {
                taken.remove(&offset);
                used -= size_of_class(class);
                // SAFETY: it was taken with this class and is given once.
                unsafe { blocks.give(block, class) };
            }
            assert_eq!(blocks.left(), HEAP - used);
        }
        for (class, block) in std::mem::take(&mut taken).into_values() {
            // SAFETY: as above.
            unsafe { blocks.give(block, class) };
        }
        assert_eq!(all(&mut blocks, CLASSES - 1).len(), HEAP / size_of_class(CLASSES - 1));
    }
}
