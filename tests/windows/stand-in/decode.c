/*
 * Instructions behind RIP: the OUT or the store that KVM had completed when it exited (Intel SDM volume 2).
 *
 * x86 cannot be decoded backwards. A candidate is a byte sequence that ends at RIP and is one whole OUT or MOV to memory;
 * it counts if, with the VP's registers, which such an instruction does not change, it does just what KVM reports:
 * the same port or guest-physical address, the same size, the same value. Of several the longest wins: what is in front
 * of a shorter one would be a prefix that changes nothing.
 *
 * Quirk: only MOV is known (88, 89, c6, c7, a2, a3); other stores to unmapped memory end as UnsupportedFeature.
 */
#include "stand-in.h"

#include <string.h>

#define MAX_LENGTH 15

struct instruction {
    const uint8_t *bytes;
    uint32_t length, at;
    bool operand16, address32, rex_present;
    uint8_t rex, segment;
};

static uint64_t register_of(const struct kvm_regs *r, uint32_t number)
{
    const __u64 order[] = {r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
                           r->r8,  r->r9,  r->r10, r->r11, r->r12, r->r13, r->r14, r->r15};
    return order[number & 15];
}

static bool in_long_mode(const struct vp *vp)
{
    return (vp->sregs.efer & 0x400) && vp->sregs.cs.l;
}

static void prefixes(struct vp *vp, struct instruction *i)
{
    for (; i->at < i->length; i->at++) {
        uint8_t b = i->bytes[i->at];
        if (b == 0x66)
            i->operand16 = true;
        else if (b == 0x67)
            i->address32 = true;
        else if (b == 0x64 || b == 0x65)
            i->segment = b;
        else if ((b & 0xf0) == 0x40 && in_long_mode(vp)) {
            i->rex_present = true;
            i->rex = b & 15;
            i->at++;
            return;
        } else
            return;
    }
}

static uint32_t operand_size(const struct vp *vp, const struct instruction *i)
{
    if (i->rex & 8)
        return 8;
    bool wide = in_long_mode(vp) || vp->sregs.cs.db;
    return wide != i->operand16 ? 4 : 2;
}

static bool take(struct instruction *i, void *value, uint32_t size)
{
    if (size > i->length - i->at)
        return false;
    memcpy(value, i->bytes + i->at, size);
    i->at += size;
    return true;
}

/* A displacement of 0, 1 or 4 bytes. */
static bool displacement(struct instruction *i, uint32_t size, int64_t *value)
{
    int8_t byte = 0;
    int32_t word = 0;
    *value = 0;
    if (size == 1 && !take(i, &byte, 1))
        return false;
    if (size == 4 && !take(i, &word, 4))
        return false;
    *value = size == 1 ? byte : word;
    return true;
}

/* The linear address that ModRM and what follows it mean in 32-bit and 64-bit code. */
static bool effective_address(struct vp *vp, struct instruction *i, const struct kvm_regs *regs, uint8_t modrm,
                              uint64_t *linear)
{
    uint32_t mod = modrm >> 6, rm = modrm & 7;
    uint64_t base = 0, index = 0;
    int64_t offset;
    bool relative = false;
    if (mod == 3)
        return false;
    if (rm == 4) {
        uint8_t sib;
        if (!take(i, &sib, 1))
            return false;
        uint32_t index_number = (sib >> 3 & 7) | (i->rex & 2) << 2;
        if (index_number != 4)
            index = register_of(regs, index_number) << (sib >> 6);
        if ((sib & 7) == 5 && mod == 0)
            mod = 4;
        else
            base = register_of(regs, (sib & 7) | (i->rex & 1) << 3);
    } else if (rm == 5 && mod == 0) {
        relative = in_long_mode(vp);
        mod = 4;
    } else {
        base = register_of(regs, rm | (i->rex & 1) << 3);
    }
    if (!displacement(i, mod == 1 ? 1 : mod == 0 ? 0 : 4, &offset))
        return false;
    *linear = base + index + (uint64_t)offset;
    /* Relative to the next instruction, which is where RIP is. */
    if (relative)
        *linear += regs->rip;
    if (i->address32 || !in_long_mode(vp))
        *linear = (uint32_t)*linear;
    if (i->segment || !in_long_mode(vp))
        *linear += i->segment == 0x65 ? vp->sregs.gs.base : i->segment == 0x64 ? vp->sregs.fs.base : vp->sregs.ds.base;
    return true;
}

/* A byte register: without REX, 4 to 7 are AH, CH, DH, BH. */
static uint64_t byte_register(const struct kvm_regs *regs, const struct instruction *i, uint32_t number)
{
    if (!i->rex_present && number >= 4)
        return register_of(regs, number - 4) >> 8;
    return register_of(regs, number);
}

static bool is_store(struct vp *vp, const uint8_t *bytes, uint32_t length, const struct kvm_regs *regs, uint64_t gpa,
                     const uint8_t *data, uint32_t size)
{
    struct instruction i = {.bytes = bytes, .length = length};
    uint8_t opcode, modrm = 0;
    uint64_t linear = 0, value = 0, where;
    prefixes(vp, &i);
    if (!take(&i, &opcode, 1))
        return false;
    bool byte = !(opcode & 1);
    uint32_t width = byte ? 1 : operand_size(vp, &i);
    switch (opcode) {
    case 0x88:
    case 0x89: {
        if (!take(&i, &modrm, 1) || !effective_address(vp, &i, regs, modrm, &linear))
            return false;
        uint32_t number = (modrm >> 3 & 7) | (i.rex & 4) << 1;
        value = byte ? byte_register(regs, &i, number) : register_of(regs, number);
        break;
    }
    case 0xc6:
    case 0xc7: {
        uint32_t immediate = byte ? 1 : width == 2 ? 2 : 4;
        int32_t word = 0;
        if (!take(&i, &modrm, 1) || (modrm & 0x38) || !effective_address(vp, &i, regs, modrm, &linear) ||
            !take(&i, &word, immediate))
            return false;
        value = (uint64_t)(int64_t)word;
        break;
    }
    case 0xa2:
    case 0xa3:
        if (!take(&i, &linear, in_long_mode(vp) && !i.address32 ? 8 : 4))
            return false;
        value = regs->rax;
        break;
    default:
        return false;
    }
    /* An access that crosses a page comes in parts: the first begins where the instruction does. */
    return i.at == length && size <= width && memcmp(&value, data, size) == 0 &&
           memory_translate(vp, linear, WHvTranslateGvaFlagPrivilegeExempt, &where) <=
               WHvTranslateGvaResultGpaUnmapped &&
           where == gpa;
}

/* The bytes before RIP, ending at it; how many of them could be read. */
static uint32_t read_behind(struct vp *vp, const struct kvm_regs *regs, uint8_t *bytes)
{
    uint64_t end = vp->sregs.cs.base + regs->rip;
    for (uint32_t count = MAX_LENGTH; count > 0; count--)
        if (memory_read_virtual(vp, end - count, bytes + MAX_LENGTH - count, count) == count)
            return count;
    return 0;
}

uint32_t decode_store_behind(struct vp *vp, const struct kvm_regs *regs, uint64_t gpa, const uint8_t *data,
                             uint32_t size)
{
    uint8_t bytes[MAX_LENGTH];
    for (uint32_t length = read_behind(vp, regs, bytes); length >= 2; length--)
        if (is_store(vp, bytes + MAX_LENGTH - length, length, regs, gpa, data, size))
            return length;
    return 0;
}

static bool is_out(struct vp *vp, const uint8_t *bytes, uint32_t length, const struct kvm_regs *regs, uint16_t port,
                   uint32_t size)
{
    struct instruction i = {.bytes = bytes, .length = length};
    uint8_t opcode, immediate;
    prefixes(vp, &i);
    if (!take(&i, &opcode, 1))
        return false;
    uint32_t width = operand_size(vp, &i) == 2 ? 2 : 4;
    if ((opcode & 0xfe) == 0xe6) {
        if (!take(&i, &immediate, 1) || immediate != port)
            return false;
    } else if ((opcode & 0xfe) != 0xee || (uint16_t)regs->rdx != port) {
        return false;
    }
    return i.at == length && size == ((opcode & 1) ? width : 1);
}

uint32_t decode_out_behind(struct vp *vp, const struct kvm_regs *regs, uint16_t port, uint32_t size)
{
    uint8_t bytes[MAX_LENGTH];
    uint32_t available = read_behind(vp, regs, bytes);
    /* The only prefix that compilers give it is 66, whose effect on the size is seen. */
    for (uint32_t length = available < 3 ? available : 3; length >= 1; length--) {
        const uint8_t *begin = bytes + MAX_LENGTH - length;
        bool one_byte_prefix = begin[0] == 0x66 || begin[0] == 0xe6 || begin[0] == 0xe7 || length == 1;
        if (one_byte_prefix && is_out(vp, begin, length, regs, port, size))
            return length;
    }
    return 0;
}
